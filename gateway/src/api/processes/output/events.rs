//! A process's output as Server-Sent Events.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use qga_proto::command::OutputStream;
use serde::Serialize;
use tokio::time::sleep;
use utoipa::ToSchema;

use super::Watched;
use crate::api::processes::body::{ProcessBody, text_or_base64};
use crate::vm::{OutputReader, Piece};

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

/// A piece of output: the `data` of the events `stdout` and `stderr`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OutputEvent, example = json!({"offset": 0, "text": "hello\n"}))]
pub(in crate::api) struct OutputBody {
    /// Where it begins, in bytes from the stream's beginning.
    offset: u64,
    /// The bytes, where they are UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    text: Option<String>,
    /// The bytes, where they are not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, content_encoding = "base64")]
    base64: Option<String>,
}

/// Output that is not there any more: the `data` of the event `gap`.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OutputGap, example = json!({"stream": "stdout", "offset": 0, "missed": 65536}))]
pub(in crate::api) struct GapBody {
    stream: OutputStream,
    /// The first byte that is missing.
    offset: u64,
    /// How many are.
    missed: u64,
}

impl GapBody {
    pub(in crate::api::processes) fn new(stream: OutputStream, from: u64, to: u64) -> Self {
        Self { stream, offset: from, missed: to - from }
    }
}

/// The answer that tells of everything as it comes.
pub(super) fn events(watched: Watched, reader: OutputReader) -> Response {
    let feed = Feed {
        heartbeat: watched.caller.app().limits().event_heartbeat,
        watched,
        reader,
        held: [Vec::new(), Vec::new()],
        stage: Stage::Greeting,
    };
    let stream = unfold(feed, |mut feed| async move {
        let text = feed.next().await?;
        Some((Ok::<_, Infallible>(Bytes::from(text)), feed))
    });
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    (headers, Body::from_stream(stream)).into_response()
}

/// One client's events.
struct Feed {
    reader: OutputReader,
    /// The beginning of a character whose end has not come yet.
    held: [Vec<u8>; 2],
    heartbeat: Duration,
    watched: Watched,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Greeting,
    Output,
    /// All output was told, and the process has not ended.
    Waiting,
    Over,
}

impl Feed {
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.stage == Stage::Greeting {
                self.stage = Stage::Output;
                return Some(format!("retry: {}\n\n", RETRY.as_millis()));
            }
            if self.stage == Stage::Over {
                return None;
            }
            let process = self.reader.process().clone();
            tokio::select! {
                biased;
                () = self.watched.over() => return None,
                piece = self.reader.next(), if self.stage == Stage::Output => match piece {
                    Some(piece) => {
                        if let Some(text) = self.frame(piece) {
                            return Some(text);
                        }
                    }
                    None => {
                        self.stage = Stage::Waiting;
                        if let Some(text) = self.rest() {
                            return Some(text);
                        }
                    }
                },
                () = process.completed(), if self.stage == Stage::Waiting => {
                    self.stage = Stage::Over;
                    let id = format!("{}-end", self.id());
                    return Some(event(&id, "exit", &ProcessBody::brief(&process)));
                }
                () = sleep(self.heartbeat) => return Some(": still here\n\n".into()),
            }
        }
    }

    fn frame(&mut self, piece: Piece) -> Option<String> {
        match piece {
            Piece::Gap { stream, from, to } => {
                let rest = self.flush(stream, from).unwrap_or_default();
                Some(rest + &event(&self.id(), "gap", &GapBody::new(stream, from, to)))
            }
            Piece::Bytes { stream, offset, bytes } => {
                let held = &mut self.held[place_of(stream)];
                let offset = offset - held.len() as u64;
                let mut all = std::mem::take(held);
                all.extend_from_slice(&bytes);
                *held = all.split_off(whole_characters(&all));
                (!all.is_empty()).then(|| self.output(stream, offset, all))
            }
        }
    }

    /// What is held of both streams, once nothing more will come.
    fn rest(&mut self) -> Option<String> {
        let at = self.reader.position().map(Option::unwrap_or_default);
        let rest =
            [self.flush(OutputStream::Stdout, at[0]), self.flush(OutputStream::Stderr, at[1])];
        let rest: String = rest.into_iter().flatten().collect();
        (!rest.is_empty()).then_some(rest)
    }

    /// What is held of a stream that goes on elsewhere than at `at`, if at all.
    fn flush(&mut self, stream: OutputStream, at: u64) -> Option<String> {
        let held = std::mem::take(&mut self.held[place_of(stream)]);
        let offset = at.saturating_sub(held.len() as u64);
        (!held.is_empty()).then(|| self.output(stream, offset, held))
    }

    fn output(&self, stream: OutputStream, offset: u64, bytes: Vec<u8>) -> String {
        let (text, base64) = text_or_base64(bytes);
        event(&self.id(), stream_name(stream), &OutputBody { offset, text, base64 })
    }

    /// What the client has of both streams with the event that is being written.
    fn id(&self) -> String {
        let at = |n: usize| {
            self.reader.position()[n].unwrap_or_default().saturating_sub(self.held[n].len() as u64)
        };
        format!("{}-{}", at(0), at(1))
    }
}

fn event(id: &str, name: &str, data: &impl Serialize) -> String {
    // Strings and numbers, on one line: the serialization cannot fail, nor hold a line feed.
    let json = serde_json::to_string(data).unwrap_or_default();
    format!("id: {id}\nevent: {name}\ndata: {json}\n\n")
}

const fn stream_name(stream: OutputStream) -> &'static str {
    match stream {
        OutputStream::Stdout => "stdout",
        OutputStream::Stderr => "stderr",
    }
}

const fn place_of(stream: OutputStream) -> usize {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

/// How much of it does not end in the midst of a character. All, if it is no UTF-8 anyhow.
fn whole_characters(bytes: &[u8]) -> usize {
    match std::str::from_utf8(bytes) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => bytes.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_not_cut() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(&"€".as_bytes()[..2]), 0);
        assert_eq!(whole_characters(b"\xff\xc3"), 2);
    }
}
