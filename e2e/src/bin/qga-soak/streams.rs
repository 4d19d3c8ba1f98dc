//! Callers that follow the events: some leave in the middle, some do not read.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use qga_e2e::sim::Random;

use crate::Run;
use crate::client::Ask;

const FOLLOWERS: u64 = 6;

/// Follows until the run is over.
pub(crate) async fn all(run: Arc<Run>) {
    let followers: Vec<_> = (0..FOLLOWERS)
        .map(|number| {
            let random = Random::new(run.seed.rotate_left(17) ^ number);
            tokio::spawn(follower(run.clone(), random))
        })
        .collect();
    for follower in followers {
        if let Err(error) = follower.await {
            run.book.wrong(format!("a follower of the soak itself failed: {error}"));
        }
    }
}

async fn follower(run: Arc<Run>, mut random: Random) {
    let mut last = None;
    while run.pause(Duration::from_millis(random.below(3000))).await {
        let mut ask = Ask::new("GET", "/events", "/events".into());
        if random.once_in(3) {
            ask.path += "?kind=link.changed";
        }
        if let Some(last) = last.clone().filter(|_| random.once_in(2)) {
            ask = ask.header("last-event-id", last);
        }
        let Ok(answer) = run.open(&ask).await else { continue };
        let status = answer.status().as_u16();
        if !matches!(status, 200 | 400 | 503) {
            run.book.wrong(format!("{}: {status}", ask.path));
        }
        let time = Duration::from_millis(random.below(20_000));
        if random.once_in(6) {
            // Does not read.
            run.pause(time).await;
            continue;
        }
        let mut body = answer.into_body();
        let read = async {
            while let Some(Ok(frame)) = body.frame().await {
                let text = frame.data_ref().map(|data| String::from_utf8_lossy(data).into_owned());
                let ids = text.iter().flat_map(|text| text.lines());
                let id = ids.filter_map(|line| line.strip_prefix("id:")).next_back();
                last = id.map(|id| id.trim().to_owned()).or_else(|| last.take());
            }
        };
        tokio::select! {
            () = run.over.cancelled() => return,
            _ = tokio::time::timeout(time, read) => {}
        }
    }
}
