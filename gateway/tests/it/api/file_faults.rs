//! Files both ways, of any size, with anything that goes wrong at any place: what arrives is whole or
//! is seen not to be, what was there stays or gives way to the whole, and everything works afterwards.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};
use qga_gateway::vm::LinkState;

use super::client::Answer;
use super::downloads::{CHUNK as PART, all_closed, content, eventually, gateway, noise, whole};
use super::file_agent::FileAgent;
use super::gateway::Gateway;

/// What goes wrong, after so many bytes of content or (`Cut`) of all that the agent says.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Nothing,
    Cut(usize),
    Restart(usize),
    CallerGone(usize),
    DiskFull(usize),
}

fn faults() -> impl Strategy<Value = Fault> {
    let place = 0..4 * PART;
    prop_oneof![
        1 => Just(Fault::Nothing),
        // An answer with content has a third more bytes; those of uploads are short.
        3 => (0..6 * PART).prop_map(Fault::Cut),
        2 => (0..2000usize).prop_map(Fault::Cut),
        2 => place.clone().prop_map(Fault::Restart),
        2 => place.clone().prop_map(Fault::CallerGone),
        2 => place.prop_map(Fault::DiskFull),
    ]
}

struct Bed {
    agent: FileAgent,
    gateway: Gateway,
    extended: bool,
    data: Arc<Vec<u8>>,
}

impl Bed {
    async fn new(extended: bool) -> Self {
        let agent = FileAgent::new(extended);
        // Each link that is cut young makes the pause before the next try longer, up to 30 s, unless a
        // call asks for it: the tests only wait.
        let gateway = gateway(&agent, "[limits]\nbackoff_max_seconds = 0.2\n").await;
        Self { agent, gateway, extended, data: Arc::new(noise(4 * PART)) }
    }

    /// Lets it go wrong while `request` is under way.
    async fn upset(&self, fault: Fault, before: usize, is_over: impl Fn() -> bool) {
        match fault {
            Fault::Nothing | Fault::Cut(_) | Fault::DiskFull(_) => {}
            Fault::Restart(at) | Fault::CallerGone(at) => {
                eventually("it gets there", || self.is_at(before + at) || is_over()).await;
            }
        }
        if let Fault::Restart(_) = fault {
            self.agent.restart();
        }
    }

    fn is_at(&self, moved: usize) -> bool {
        self.agent.disk().moved > moved
    }

    fn arm(&self, fault: Fault) -> usize {
        let mut disk = self.agent.disk();
        match fault {
            Fault::Cut(at) => disk.cut_after = Some(at),
            Fault::DiskFull(room) => disk.room = Some(room),
            _ => {}
        }
        disk.moved
    }

    /// Nothing goes wrong any more; everything must work, and nothing stay open.
    async fn recover(&self, fault: Fault) -> TestCaseResult {
        {
            let mut disk = self.agent.disk();
            (disk.cut_after, disk.room) = (None, None);
        }
        // The number of a handle may have been lost with the answer to its opening.
        let lost = usize::from(matches!(fault, Fault::Cut(_) | Fault::Restart(_)));
        // What a sender that went away has sent is kept for it, until something is sent anew.
        let kept = usize::from(self.extended && matches!(fault, Fault::CallerGone(_)));
        eventually("handles are closed", || self.agent.open() <= lost + kept).await;
        let work = async {
            loop {
                self.gateway.wait_for(LinkState::Ready).await;
                // What is kept of an upload that broke off gives way to one from the beginning.
                let put = self.gateway.ask("PUT", &content("/f")).text("after").send().await;
                if put.status.is_success() {
                    break;
                }
                assert_eq!(put.status, 503, "{:?}", put.body);
            }
            let get = self.gateway.ask("GET", &content("/f")).send().await;
            assert_eq!(&*get.body, b"after");
        };
        tokio::time::timeout(super::gateway::BOUND, work).await.expect("it works again");
        eventually("handles are closed", || self.agent.open() <= lost).await;
        self.agent.disk().forget_handles();
        Ok(())
    }

    async fn down(&self, size: usize, fault: Fault) -> TestCaseResult {
        let data = &self.data[..size];
        self.agent.put("/f", data);
        let before = self.arm(fault);
        let ask = self.gateway.ask("GET", &content("/f"));
        let request = tokio::spawn(async move {
            let response = ask.open().await;
            let status = response.status();
            (status, whole(response).await)
        });
        self.upset(fault, before, || request.is_finished()).await;
        if matches!(fault, Fault::CallerGone(_)) {
            request.abort();
        }
        if let Ok((status, body)) = request.await {
            match (status.as_u16(), body) {
                (200, Some(body)) => prop_assert!(body == data, "{} bytes", body.len()),
                // Its length was announced, so that this is seen.
                (200, None) => {}
                // A new agent does not know the handle.
                (422, _) => prop_assert!(matches!(fault, Fault::Restart(_))),
                (status, _) => prop_assert_eq!(status, 503),
            }
        }
        self.recover(fault).await
    }

    async fn up(&self, size: usize, fault: Fault) -> TestCaseResult {
        let data = self.data[..size].to_vec();
        let old = noise(77);
        self.agent.put("/f", &old);
        let before = self.arm(fault);
        let ask = self.gateway.ask("PUT", &content("/f")).text(data.clone());
        let request = tokio::spawn(ask.send());
        self.upset(fault, before, || request.is_finished()).await;
        if matches!(fault, Fault::CallerGone(_)) {
            request.abort();
        }
        let answer: Option<Answer> = request.await.ok();
        // What it was told to do before it was cut off or left is done first.
        self.gateway.wait_for(LinkState::Ready).await;
        let there = self.agent.content("/f").unwrap();
        let done = answer.as_ref().is_some_and(|answer| answer.status.is_success());
        if done {
            prop_assert!(there == data);
        } else if self.extended {
            prop_assert!(there == old || there == data, "half of it: {} bytes", there.len());
        } else {
            prop_assert!(there == old || data.starts_with(&there), "{} bytes", there.len());
        }
        if let Some(answer) = answer.filter(|_| !done) {
            let problem = answer.value();
            let code = problem["code"].as_str().unwrap_or_default();
            let expected = match (fault, self.extended) {
                (Fault::DiskFull(_), true) => &["no_space"][..],
                (Fault::DiskFull(_), false) => &["agent_error"][..],
                _ => &["agent_unavailable", "upload_offset_mismatch", "agent_error"][..],
            };
            prop_assert!(expected.contains(&code), "{fault:?}: {problem}");
            let may_be_new = problem["outcome"] == "unknown";
            prop_assert!(!self.extended || there == old || may_be_new, "{fault:?}: {problem}");
            if let Some(written) = problem["written"].as_u64() {
                let written = usize::try_from(written).unwrap();
                prop_assert!(written <= there.len() && there[..written] == data[..written]);
            }
        }
        self.recover(fault).await
    }
}

fn run(extended: bool, up: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let bed = runtime.block_on(Bed::new(extended));
    let sizes = prop_oneof![1..100usize, PART - 3..PART + 3, 1..4 * PART];
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let outcome = runner.run(&(sizes, faults()), |(size, fault)| {
        runtime.block_on(async {
            if up { bed.up(size, fault).await } else { bed.down(size, fault).await }
        })
    });
    outcome.unwrap();
    runtime.block_on(all_closed(&bed.agent));
}

#[test]
fn down_from_ours() {
    run(true, false);
}

#[test]
fn down_from_a_stock_agent() {
    run(false, false);
}

#[test]
fn up_to_ours() {
    run(true, true);
}

#[test]
fn up_to_a_stock_agent() {
    run(false, true);
}
