//! `…/output`: what a process writes, as events or as bytes, while it runs and afterwards.

mod events;
mod place;

use std::io;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::unfold;
use qga_proto::command::Right;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use self::events::events;
pub(in crate::api) use self::events::{GapBody, OutputBody};
use self::place::{last_event, place};
use super::ProcessPath;
use crate::api::App;
use crate::api::caller::Caller;
use crate::api::error::{Code, Problem};
use crate::api::extract::{Path, Query};
use crate::vm::{OutputReader, Piece, Process, VmHandle};

const OFFSET: HeaderName = HeaderName::from_static("x-output-offset");
const STREAMING: HeaderName = HeaderName::from_static("x-output-streaming");

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
        last_event(&query, &headers)?;
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
    if i64::try_from(offset).is_err() {
        return Err(Problem::bad_request(format!(
            "Parameter \"offset\" must be at most {}.",
            i64::MAX
        )));
    }
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
