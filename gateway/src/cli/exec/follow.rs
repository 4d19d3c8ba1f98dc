//! A process's output, live, and its end.

use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::{Method, StatusCode, header};
use qga_gateway::client::{Failure, Gateway, empty};
use serde_json::Value;
use tokio::time::sleep;

use crate::cli::bytes_out::{Output, Stream};
use crate::cli::events::{Event, Events};
use crate::cli::out::say;

/// How often in a row nobody may answer, and the pause between.
const AGAIN: u32 = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// How it ended.
pub(super) enum End {
    /// The process did.
    Exit(Value),
    /// Nobody reads what it writes any more.
    Unread,
}

/// Passes output on until the process ends. A connection that breaks is made anew, and goes on where
/// it was.
pub(super) async fn follow(
    gateway: &Gateway,
    process: &str,
    output: &Output,
) -> Result<End, Failure> {
    let mut place = String::new();
    let mut silent = 0;
    loop {
        let before = place.clone();
        match read(gateway, process, output, &mut place).await {
            Ok(Some(end)) => return Ok(end),
            Ok(None) => {}
            Err(failure) if failure.is_silence() || failure.code() == Some("shutting_down") => {
                if silent == AGAIN {
                    return Err(failure);
                }
            }
            Err(failure) => return Err(failure),
        }
        silent = if place == before { silent + 1 } else { 0 };
        sleep(PAUSE).await;
    }
}

/// One connection's worth; none if it ended before the process did.
async fn read(
    gateway: &Gateway,
    process: &str,
    output: &Output,
    place: &mut String,
) -> Result<Option<End>, Failure> {
    let request = gateway.request(Method::GET, &format!("{process}/output"));
    let mut request = request.header(header::ACCEPT, "text/event-stream");
    if !place.is_empty() {
        request = request.header("last-event-id", place.as_str());
    }
    let answer = gateway.open(request, empty()).await?;
    if answer.status() == StatusCode::NO_CONTENT {
        return gateway.get(process).await.map(|process| Some(End::Exit(process)));
    }
    let (mut body, mut events) = (answer.into_body(), Events::default());
    while let Some(Ok(frame)) = body.frame().await {
        let Some(bytes) = frame.data_ref() else { continue };
        for event in events.take(bytes) {
            if !event.id.is_empty() {
                event.id.clone_into(place);
            }
            match tell(event, output).await {
                Some(end) => return Ok(Some(end)),
                None => continue,
            }
        }
    }
    Ok(None)
}

async fn tell(event: Event, output: &Output) -> Option<End> {
    let stream = match event.kind.as_str() {
        "exit" => return Some(End::Exit(event.data)),
        "gap" => {
            let (missed, stream) = (&event.data["missed"], &event.data["stream"]);
            say(&format!("{missed} bytes of {} gave way before they were read", stream.as_str()?));
            return None;
        }
        "stdout" => Stream::Out,
        "stderr" => Stream::Err,
        _ => return None,
    };
    let bytes = match (event.data["text"].as_str(), event.data["base64"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(text)) => base64_simd::STANDARD.decode_to_vec(text).unwrap_or_default(),
        (None, None) => Vec::new(),
    };
    output.write(stream, bytes).await.err().map(|_| End::Unread)
}
