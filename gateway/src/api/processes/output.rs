//! `…/output`: what a process writes, as events or as bytes, while it runs and afterwards.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use qga_proto::command::{OutputStream, Right};
use serde::{Deserialize, Serialize};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::ProcessPath;
use super::body::{ProcessBody, text_or_base64};
use crate::api::App;
use crate::api::caller::Caller;
use crate::api::error::{Code, Problem};
use crate::api::extract::{Path, Query};
use crate::vm::{OutputReader, Piece, Process, VmHandle};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const OFFSET: HeaderName = HeaderName::from_static("x-output-offset");
const STREAMING: HeaderName = HeaderName::from_static("x-output-streaming");

/// How long a browser waits before it connects again.
const RETRY: Duration = Duration::from_secs(2);

/// Which output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OutputChoice)]
pub(in crate::api) enum Choice {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// Both, told apart.
    Both,
}

/// Which output, and from where on.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct OutputQuery {
    /// Which stream. If absent, `both` as events and `stdout` as bytes.
    #[param(inline)]
    stream: Option<Choice>,
    /// Where to begin, in bytes from the stream's beginning. If absent, with the first byte that is
    /// kept. Not with `both`.
    offset: Option<u64>,
    /// As the header `Last-Event-ID`, for clients that cannot send one.
    last_event_id: Option<String>,
}

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
    pub(super) fn new(stream: OutputStream, from: u64, to: u64) -> Self {
        Self { stream, offset: from, missed: to - from }
    }
}

/// Read a process's output
///
/// While it runs and afterwards, by as many as may (`limits.process_readers`), each at its own pace:
/// who is slow costs no memory. With `Accept: text/event-stream` as events: `stdout` and `stderr`
/// with `OutputEvent` as their data, `gap` with `OutputGap` where output had to give way before it
/// was read, and at the end one `exit` with the `Process`. An event's id is the place in both
/// streams; `Last-Event-ID` goes on from there, and once all was told the answer is 204. Otherwise
/// the bytes of one stream, from `offset` on, until the stream ends; the header `x-output-offset`
/// says where they begin. Where bytes give way during that, the answer breaks off. With a stock
/// agent, which gives its output at the end, `x-output-streaming` is `false`.
#[utoipa::path(
    get,
    path = "/vms/{id}/processes/{pid}/output",
    tag = "processes",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("pid" = i64, Path, description = "Its number in the guest.", example = 4711),
        OutputQuery,
        ("last-event-id" = Option<String>, Header, description = "The last event that the client has."),
    ),
    responses(
        (
            status = 200,
            description = "The output, as it comes.",
            content(
                (String = "text/event-stream", example = json!("id: 6-0\nevent: stdout\ndata: {\"offset\":0,\"text\":\"hello\\n\"}\n\n")),
                (String = "application/octet-stream")
            ),
            headers(
                ("x-output-offset" = u64, description = "Where the bytes begin."),
                ("x-output-streaming" = bool, description = "Whether output comes while the process runs.")
            )
        ),
        (status = 204, description = "The client has had everything (`Last-Event-ID`).")
    ),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-read")),
        ("x-qga-problems" = json!([
            "vm_not_found", "process_not_found", "process_conflict", "output_gone",
            "too_many_subscribers", "shutting_down"
        ])),
    )
)]
pub(in crate::api) async fn read_output(
    caller: Caller,
    Path(path): Path<ProcessPath>,
    Query(query): Query<OutputQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let app = caller.app();
    if app.stopping.is_cancelled() {
        return Err(stopping());
    }
    let (vm, process) = path.find(&caller).await?;
    let vm = vm.handle;
    let streaming = process.streams().to_string();
    let mut response = if wants_events(&headers) {
        let at = place(&query, &headers)?;
        if at.ended {
            return Ok(StatusCode::NO_CONTENT.into_response());
        }
        let reader = reader(app, &process, at.positions(query.stream))?;
        events(Watched { stopping: app.stopping.clone(), vm, process, caller }, reader)
    } else {
        bytes(caller, vm, &process, &query)?
    };
    if let Ok(value) = streaming.try_into() {
        response.headers_mut().insert(STREAMING, value);
    }
    Ok(response)
}

pub(super) fn stopping() -> Problem {
    Problem::new(Code::ShuttingDown, "The gateway is stopping; the process goes on in its guest.")
        .retry_after(5)
}

pub(super) fn reader(
    app: &App,
    process: &std::sync::Arc<Process>,
    at: [Option<u64>; 2],
) -> Result<OutputReader, Problem> {
    OutputReader::new(process.clone(), at, app.limits().process_readers).map_err(|full| {
        Problem::new(
            Code::TooManySubscribers,
            format!(
                "{} clients read this process's output already, as many as limits.process_readers \
                 in the gateway's configuration allows. Try again when one of them has gone.",
                full.limit
            ),
        )
        .retry_after(10)
    })
}

/// What the client has of both streams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Place {
    at: [u64; 2],
    ended: bool,
}

impl Place {
    fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('-');
        let mut number = || parts.next()?.parse::<u64>().ok();
        let at = [number()?, number()?];
        match (parts.next(), parts.next()) {
            (None, _) => Some(Self { at, ended: false }),
            (Some("end"), None) => Some(Self { at, ended: true }),
            _ => None,
        }
    }

    fn positions(&self, choice: Option<Choice>) -> [Option<u64>; 2] {
        let wanted = |stream| matches!(choice, None | Some(Choice::Both)) || choice == Some(stream);
        [wanted(Choice::Stdout).then_some(self.at[0]), wanted(Choice::Stderr).then_some(self.at[1])]
    }
}

fn place(query: &OutputQuery, headers: &HeaderMap) -> Result<Place, Problem> {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?").to_owned());
    if let Some(id) = header.or_else(|| query.last_event_id.clone()).filter(|id| !id.is_empty()) {
        return Place::parse(&id).ok_or_else(|| {
            Problem::bad_request("Last-Event-ID is no id of an event of this stream.")
        });
    }
    let Some(offset) = query.offset else { return Ok(Place::default()) };
    let at = match query.stream {
        Some(Choice::Stdout) => [offset, 0],
        Some(Choice::Stderr) => [0, offset],
        None | Some(Choice::Both) => {
            return Err(Problem::bad_request(
                "Query parameter \"offset\" needs \"stream=stdout\" or \"stream=stderr\"; both go on \
                 with \"last_event_id\".",
            ));
        }
    };
    Ok(Place { at, ended: false })
}

fn wants_events(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accept.flat_map(|value| value.split(',')).any(|range| {
        let media = range.split(';').next().unwrap_or_default().trim();
        media.eq_ignore_ascii_case("text/event-stream")
    })
}

fn bytes(
    caller: Caller,
    vm: VmHandle,
    process: &std::sync::Arc<Process>,
    query: &OutputQuery,
) -> Result<Response, Problem> {
    let n = match query.stream {
        None | Some(Choice::Stdout) => 0,
        Some(Choice::Stderr) => 1,
        Some(Choice::Both) => {
            return Err(Problem::bad_request(
                "Both streams at once are told apart only as events: send \"Accept: \
                 text/event-stream\", or name one stream.",
            ));
        }
    };
    let Some(state) = process.view().streams[n] else {
        return Err(Problem::new(
            Code::ProcessConflict,
            format!(
                "Process {} was started so that this stream is not kept (\"capture\", or a \
                 terminal, which has only standard output).",
                process.pid
            ),
        ));
    };
    let offset = query.offset.unwrap_or(state.start);
    if offset < state.start {
        return Err(Problem::new(
            Code::OutputGone,
            format!(
                "Of this stream the bytes before offset {} are not kept any more \
                 (limits.process_output_bytes): ask from there.",
                state.start
            ),
        ));
    }
    let mut at = [None; 2];
    at[n] = Some(offset);
    let reader = reader(caller.app(), process, at)?;
    let process = process.clone();
    let watched = Watched { stopping: caller.app().stopping.clone(), vm, process, caller };
    let raw = Raw { reader, watched };
    let stream = unfold(Some(raw), |raw| async move {
        let mut raw = raw?;
        let next = raw.next().await?;
        let next_state = next.is_ok().then_some(raw);
        Some((next, next_state))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (OFFSET, offset.to_string()),
    ];
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// What a stream of output ends with, besides the output.
struct Watched {
    caller: Caller,
    vm: VmHandle,
    process: std::sync::Arc<Process>,
    stopping: CancellationToken,
}

impl Watched {
    /// Returns once the gateway stops, or the caller may not read on.
    async fn over(&self) {
        let may = || self.caller.uses(&self.vm, &self.process);
        tokio::select! {
            () = self.stopping.cancelled() => {}
            () = self.caller.revoked(may) => {}
        }
    }
}

/// The bytes of one stream. Where they cannot go on whole, they break off.
struct Raw {
    reader: OutputReader,
    watched: Watched,
}

impl Raw {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        let next = self.piece().await;
        if matches!(next, Some(Err(_))) {
            // What came before it goes out first: hyper writes when a body has to be waited for.
            tokio::task::yield_now().await;
        }
        next
    }

    async fn piece(&mut self) -> Option<io::Result<Bytes>> {
        let piece = tokio::select! {
            biased;
            () = self.watched.over() => return Some(Err(io::Error::other("it may not go on"))),
            piece = self.reader.next() => piece,
        };
        match piece {
            Some(Piece::Bytes { bytes, .. }) => Some(Ok(bytes.into())),
            Some(Piece::Gap { .. }) => Some(Err(io::Error::other("output gave way"))),
            None if self.reader.process().is_cut() => {
                Some(Err(io::Error::other("the process is lost")))
            }
            None => None,
        }
    }
}

fn events(watched: Watched, reader: OutputReader) -> Response {
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
    fn an_id_is_a_place_in_both_streams() {
        assert_eq!(Place::parse("12-3"), Some(Place { at: [12, 3], ended: false }));
        assert_eq!(Place::parse("12-3-end"), Some(Place { at: [12, 3], ended: true }));
        for bad in ["", "1", "1-", "1-2-", "1-2-end-", "a-b", "-1-2", "1-2-3"] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn characters_are_not_cut() {
        assert_eq!(whole_characters("aé".as_bytes()), 3);
        assert_eq!(whole_characters(&"aé".as_bytes()[..2]), 1);
        assert_eq!(whole_characters(&"€".as_bytes()[..2]), 0);
        assert_eq!(whole_characters(b"\xff\xc3"), 2);
    }
}
