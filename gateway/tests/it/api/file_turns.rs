//! What others wait for while files are moved: one chunk, counted at the agent.

use super::downloads::{CHUNK as PART, all_closed, content, eventually, gateway, noise};
use super::file_agent::FileAgent;

/// In two commands: while one is answered the next one lies with the agent.
const CHUNK: usize = 2 * PART;

/// Transfers at once.
const MANY: usize = 5;

#[tokio::test]
async fn nobody_waits_for_a_disk_that_takes_its_time_with_an_upload() {
    let agent = FileAgent::new(true);
    agent.put("/f", b"old");
    let gateway = gateway(&agent, "").await;
    agent.disk().writing = true;
    let data = noise(3 * PART);
    let upload = tokio::spawn(gateway.ask("PUT", &content("/f")).text(data.clone()).send());
    eventually("it is written to disk", || agent.ran("x-guest-file-sync") > 0).await;
    for _ in 0..3 {
        let asked = agent.ran("x-guest-file-sync");
        gateway.ask("POST", "/vms/vm/ping").send().await.expect(200);
        eventually("it is asked about again", || agent.ran("x-guest-file-sync") > asked).await;
    }
    assert_eq!(
        (agent.ran("x-guest-file-commit"), agent.content("/f").unwrap()),
        (0, b"old".to_vec())
    );
    agent.disk().writing = false;
    upload.await.unwrap().expect(200);
    assert!(agent.content("/f").unwrap() == data);
    all_closed(&agent).await;
}

#[tokio::test]
async fn whoever_comes_between_waits_for_one_chunk_at_most() {
    for (extended, up) in [(true, false), (true, true), (false, false), (false, true)] {
        let agent = FileAgent::new(extended);
        let data = noise(40 * PART + 17);
        agent.put("/f", &data);
        let gateway = gateway(&agent, "").await;
        let ask = |n: usize| match up {
            true => gateway.ask("PUT", &content(&format!("/up-{n}"))).text(data.clone()),
            false => gateway.ask("GET", &content("/f")),
        };
        let all: Vec<_> = (0..MANY).map(|n| tokio::spawn(ask(n).send())).collect();
        let mut most = 0;
        for round in 1..=10 {
            let due = round * 15 * PART;
            eventually("they go on", || agent.disk().moved >= due).await;
            // From here on nothing is answered until the ping lies behind what was sent before it.
            agent.hold(true);
            let ping = tokio::spawn(gateway.ask("POST", "/vms/vm/ping").send());
            eventually("it arrives", || agent.disk().pings.len() == round).await;
            agent.hold(false);
            ping.await.unwrap().expect(200);
            let [before, after] = agent.disk().pings[round - 1];
            assert!(after - before <= CHUNK, "{extended} {up}: {} bytes", after - before);
            most = most.max(after - before);
        }
        // The link is not idle between two commands. Behind a virtio port a stock agent may stop for
        // good over two writes at once, and gets one.
        let expected = if up && !extended { PART } else { CHUNK };
        assert_eq!(most, expected, "extended: {extended}, up: {up}");
        for (n, answer) in all.into_iter().enumerate() {
            let answer = answer.await.unwrap();
            assert!(answer.status.is_success(), "{:?}", answer.body);
            let whole =
                if up { agent.content(&format!("/up-{n}")).unwrap() } else { answer.body.to_vec() };
            assert!(whole == data);
        }
        all_closed(&agent).await;
    }
}
