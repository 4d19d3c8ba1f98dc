//! Downloads whose link, agent, caller or guest does not stay as it was, and many at once.

use http_body_util::BodyExt as _;
use qga_gateway::vm::LinkState;
use tokio::time::timeout;

use super::client::Answer;
use super::downloads::{CHUNK, all_closed, eventually, gateway, get, noise, whole};
use super::file_agent::FileAgent;
use super::gateway::BOUND;

#[tokio::test]
async fn a_link_that_is_cut_anywhere_breaks_the_body_off_or_brings_it_whole() {
    let data = noise(3 * CHUNK);
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let gateway = gateway(&agent, "").await;
        agent.put("/f", &data);
        let small = [1, 60, 200, 500, 1000];
        for cut in small.into_iter().chain((1..13).map(|n| n * 65_537 + n * n * 1_009)) {
            gateway.wait_for(LinkState::Ready).await;
            let before = agent.ran("guest-file-read") + agent.ran("guest-file-seek");
            agent.disk().cut_after = Some(cut);
            let response = get(&gateway, "/f").open().await;
            if response.status() == 200 {
                let body = whole(response).await;
                assert!(body.is_none_or(|body| body == data), "cut after {cut}");
            } else {
                assert_eq!(response.status(), 503, "cut after {cut}");
            }
            agent.disk().cut_after = None;
            // Nobody can close a handle whose number was lost with the answer to its opening.
            if agent.ran("guest-file-read") + agent.ran("guest-file-seek") == before {
                agent.disk().forget_handles();
            }
            all_closed(&agent).await;
        }
        gateway.wait_for(LinkState::Ready).await;
        assert!(get(&gateway, "/f").send().await.body == data);
    }
}

#[tokio::test]
async fn an_agent_that_restarts_breaks_the_body_off() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "").await;
    let mut response = get(&gateway, "/f").open().await;
    response.frame().await.unwrap().unwrap();
    agent.restart();
    assert_eq!(whole(response).await, None);
    gateway.wait_for(LinkState::Ready).await;
    let range = format!("bytes={}-", 99 * CHUNK);
    assert_eq!(get(&gateway, "/f").header("range", &range).send().await.body.len(), CHUNK);
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_up_nobody_and_no_memory() {
    let agent = FileAgent::new(true);
    agent.put("/big", &noise(200 * CHUNK));
    let gateway = gateway(&agent, "").await;
    let response = get(&gateway, "/big").open().await;
    // The socket takes some, and the gateway a few; then nothing more is asked for.
    eventually("reads begin", || agent.ran("guest-file-read") >= 2).await;
    let mut reads = 0;
    for _ in 0..20 {
        gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
        reads = agent.ran("guest-file-read");
    }
    assert!(reads <= 24, "{reads} chunks were read ahead");
    assert!(whole(response).await.is_some_and(|body| body.len() == 200 * CHUNK));
    all_closed(&agent).await;
}

#[tokio::test]
async fn a_caller_that_goes_away_while_a_call_is_under_way_leaves_nothing_open() {
    for (held_at, extended) in [(0, true), (1, true), (0, false), (1, false)] {
        let agent = FileAgent::new(extended);
        agent.put("/f", &noise(9 * CHUNK));
        let gateway = gateway(&agent, "").await;
        if held_at == 0 {
            agent.hold(true);
        }
        let before = gateway.vm().counters().calls;
        let infos = agent.ran("guest-info");
        let ask = get(&gateway, "/f");
        let request = tokio::spawn(async move {
            let mut response = ask.open().await;
            while response.frame().await.is_some() {}
        });
        let opens = || agent.ran("x-guest-file-open") + agent.ran("guest-file-open");
        if held_at == 0 {
            // The command lies with the agent, unanswered, when the caller goes.
            eventually("sent", || gateway.vm().counters().calls > before).await;
        } else {
            eventually("read", || agent.ran("guest-file-read") > 0).await;
            agent.hold(true);
        }
        request.abort();
        let _ = request.await;
        agent.hold(false);
        // Before a stock agent opens anything, it is asked what it can do.
        eventually("it is opened", || opens() == 1 || agent.ran("guest-info") > infos).await;
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn a_freeze_waits_for_no_transfer_and_the_transfer_for_the_thaw() {
    for extended in [true, false] {
        let agent = FileAgent::new(extended);
        let data = noise(300 * CHUNK);
        agent.put("/f", &data);
        let gateway = gateway(&agent, "").await;
        let mut response = get(&gateway, "/f").open().await;
        let mut body = response.frame().await.unwrap().unwrap().into_data().unwrap().to_vec();
        let before = agent.ran("guest-file-read");
        gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
        assert!(agent.disk().frozen && agent.ran("guest-file-read") < before + 40);
        let rest = tokio::spawn(whole(response));
        // A new one is refused, and says why.
        get(&gateway, "/f").send().await.problem(409, "vm_frozen");
        gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
        body.extend_from_slice(&rest.await.unwrap().expect("goes on"));
        assert!(body == data);
        all_closed(&agent).await;
    }
}

#[tokio::test]
async fn a_freeze_that_lasts_too_long_ends_it() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "[limits]\ntransfer_pause_seconds = 0.3\n").await;
    let mut response = get(&gateway, "/f").open().await;
    response.frame().await.unwrap().unwrap();
    gateway.ask("POST", "/vms/vm/fsfreeze").send().await.expect(201);
    assert_eq!(whole(response).await, None);
    // The handle is closed as soon as the agent does that again.
    assert_eq!(agent.open(), 1);
    gateway.ask("DELETE", "/vms/vm/fsfreeze").send().await.expect(200);
    all_closed(&agent).await;
}

#[tokio::test]
async fn somebody_elses_freeze_and_thaw_leave_no_gap() {
    let agent = FileAgent::new(false);
    let data = noise(40 * CHUNK);
    agent.put("/f", &data);
    let gateway = gateway(&agent, "").await;
    for _ in 0..5 {
        let request = tokio::spawn(get(&gateway, "/f").send());
        let reads = agent.ran("guest-file-read");
        eventually("reads", || agent.ran("guest-file-read") > reads + 3 || request.is_finished())
            .await;
        agent.disk().frozen = true;
        tokio::task::yield_now().await;
        agent.disk().frozen = false;
        assert!(request.await.unwrap().body == data);
    }
}

#[tokio::test]
async fn transfers_take_turns_and_leave_room_for_others() {
    const MANY: usize = 50;
    let agent = FileAgent::new(true);
    let data = noise(20 * CHUNK);
    agent.put("/f", &data);
    let gateway = gateway(&agent, "").await;
    agent.hold(true);
    let before = gateway.vm().counters().calls;
    let all: Vec<_> = (0..MANY).map(|_| tokio::spawn(get(&gateway, "/f").send())).collect();
    eventually("they come", || gateway.vm().counters().calls > before).await;
    agent.hold(false);
    for answer in all {
        assert!(answer.await.unwrap().body == data);
    }
    // Whenever one had its last chunk, each of the others had some already.
    let turns = agent.disk().turns.clone();
    let mut counts = std::collections::HashMap::new();
    for handle in &turns {
        *counts.entry(*handle).or_insert(0) += 1;
        if counts[handle] == 20 {
            break;
        }
    }
    let least = counts.values().min().copied().unwrap_or(0);
    assert!(counts.len() >= MANY / 2 && least >= 1, "{} of {MANY} had turns", counts.len());
    all_closed(&agent).await;
}

#[tokio::test]
async fn there_is_a_bound_on_transfers() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "[limits]\ntransfers_vm = 1\n").await;
    let first = get(&gateway, "/f").open().await;
    let problem = get(&gateway, "/f").send().await.problem(429, "too_many_transfers");
    assert!(problem["detail"].as_str().unwrap().contains("limits.transfers_vm"), "{problem}");
    drop(first);
    all_closed(&agent).await;
    let again = async { while get(&gateway, "/f").send().await.status == 429 {} };
    timeout(BOUND, again).await.expect("there is room again");
}

#[tokio::test]
async fn a_stop_ends_transfers_and_closes_their_files() {
    let agent = FileAgent::new(true);
    agent.put("/f", &noise(100 * CHUNK));
    let gateway = gateway(&agent, "").await;
    let response = get(&gateway, "/f").open().await;
    gateway.registry.end_transfers(BOUND).await;
    assert_eq!(agent.open(), 0);
    assert_eq!(whole(response).await, None);
    let refused: Answer = get(&gateway, "/f").send().await;
    refused.problem(503, "shutting_down");
}
