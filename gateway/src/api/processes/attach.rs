//! `…/attach`: a process's terminal over a WebSocket. Binary messages are its bytes, both ways; text
//! messages are JSON that controls it. See `docs/processes.md`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use qga_proto::command::{Command, Right, TerminalSize, XExecResize, XExecSignal};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::ProcessPath;
use super::body::ProcessBody;
use super::output::{GapBody, reader, stopping};
use super::request::SignalName;
use crate::api::caller::Caller;
use crate::api::error::{Code, Problem};
use crate::api::extract::{Path, Query};
use crate::api::origin::{Origin, elsewhere};
use crate::vm::{InputError, InputWriter, OutputReader, Piece, Process, VmHandle};

/// The largest message that a client may send.
const MAX_MESSAGE: usize = 1 << 20;

/// How long a client may take to read the last message.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a process has to follow a hang-up before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Why whoever may not be here any more is put out.
const WITHDRAWN: &str = "the right to be here was taken away";

/// How often a hang-up is tried while the guest cannot be reached.
const TRIES: usize = 120;

/// How to attach.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(in crate::api) struct AttachQuery {
    /// Where output begins, in bytes from the first. If absent, with the first that is kept.
    offset: Option<u64>,
    /// Whether the process hangs up (SIGHUP, then SIGKILL) when the connection ends in any way but
    /// by the client's `detach`.
    #[serde(default)]
    #[param(default = false)]
    hangup: bool,
}

/// What a client says in a text message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Control {
    Resize(TerminalSize),
    Signal(SignalName),
    Detach(bool),
}

/// What the gateway says in a text message.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Notice<'a> {
    /// The process has ended, or is lost.
    Exit(&'a ProcessBody),
    /// Output had to give way before it was read.
    Gap(GapBody),
    /// Something that the client asked for was not done.
    Error(String),
    /// The connection ends, and the process goes on.
    Detached(&'static str),
}

/// Attach to a process's terminal
///
/// A WebSocket. Binary messages are the terminal's bytes, both ways. Text messages are JSON: the
/// client sends `{"resize": {"rows": 24, "cols": 80}}`, `{"signal": "TERM"}` or `{"detach": true}`;
/// the gateway sends `{"exit": …}` with the `Process` at its end, `{"gap": …}`, `{"error": "…"}` and
/// `{"detached": "…"}`. One client is attached at a time: a new one takes over. Only a process that
/// was started with `pty`. A browser uses a ticket, and its page must come from this gateway's host.
#[utoipa::path(
    get,
    path = "/vms/{id}/processes/{pid}/attach",
    tag = "processes",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("pid" = i64, Path, description = "Its number in the guest.", example = 4711),
        AttachQuery,
    ),
    responses((status = 101, description = "A WebSocket from here on.")),
    extensions(
        ("x-qga-right" = json!(Right::Exec)),
        ("x-qga-command" = json!("x-guest-exec-read, -write, -resize, -signal")),
        ("x-qga-problems" = json!([
            "vm_not_found", "process_not_found", "process_conflict", "too_many_subscribers",
            "shutting_down"
        ])),
    )
)]
pub(in crate::api) async fn attach_process(
    caller: Caller,
    Path(path): Path<ProcessPath>,
    Query(query): Query<AttachQuery>,
    uri: Uri,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    let app = caller.app().clone();
    if app.stopping.is_cancelled() {
        return Err(stopping());
    }
    // Tickets and tokens are no cookies, so that a browser sends none by itself; this is the second
    // lock.
    if app.origins().of(&headers, &uri) == Origin::Elsewhere {
        return Err(elsewhere());
    }
    let (vm, process) = path.find(&caller).await?;
    if !process.pty {
        return Err(Problem::new(
            Code::ProcessConflict,
            format!(
                "Process {} of VM \"{}\" has no terminal to attach to: it was started without \
                 \"pty\". Its output is at /vms/{}/processes/{}/output.",
                process.pid,
                vm.handle.id(),
                vm.handle.id(),
                process.pid
            ),
        )
        .vm(vm.handle.id()));
    }
    let upgrade = upgrade.map_err(|rejection| {
        Problem::bad_request(format!(
            "This path is a WebSocket (RFC 6455), and the request does not open one: {}.",
            rejection.body_text().trim_end_matches('.')
        ))
    })?;
    let start = process.view().streams[0].map_or(0, |stream| stream.start);
    let at = query.offset.unwrap_or(start);
    let reader = reader(&app, &process, [Some(at), None])?;
    let attached = Attached {
        heartbeat: app.limits().event_heartbeat,
        vm: vm.handle,
        process,
        caller,
        hangup: query.hangup,
    };
    Ok(upgrade
        .max_message_size(MAX_MESSAGE)
        .max_frame_size(MAX_MESSAGE)
        .on_upgrade(move |socket| attached.serve(socket, reader)))
}

/// A client with a process's terminal.
struct Attached {
    vm: VmHandle,
    process: Arc<Process>,
    caller: Caller,
    heartbeat: Duration,
    hangup: bool,
}

/// Why a connection ends.
enum End {
    Exited,
    /// The client went, or its connection did.
    Gone,
    Detached,
    /// The gateway ends it.
    Put(&'static str),
}

impl Attached {
    async fn serve(self, socket: WebSocket, reader: OutputReader) {
        let (mut sink, mut stream) = socket.split();
        let end = match self.vm.write_process(&self.process, None) {
            Ok(writer) => self.both(&mut sink, &mut stream, reader, writer).await,
            // It has ended: its output is all that there is.
            Err(_) => self.output_only(&mut sink, &mut stream, reader).await,
        };
        if self.hangup && matches!(end, End::Gone) {
            tokio::spawn(hang_up(self.vm.clone(), self.process.clone()));
        }
        let farewell = async {
            if let End::Put(reason) = end {
                let _ = tell(&mut sink, &Notice::Detached(reason)).await;
            }
            let close = CloseFrame { code: 1000, reason: "".into() };
            let _ = sink.send(Message::Close(Some(close))).await;
            // Its answer, so that nothing that was sent is lost with the connection.
            while let Some(Ok(_)) = stream.next().await {}
        };
        let _ = timeout(FAREWELL, farewell).await;
    }

    async fn both(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        stream: &mut SplitStream<WebSocket>,
        reader: OutputReader,
        writer: InputWriter<'_>,
    ) -> End {
        // Errors on the way up are told on the way down; few, or the client waits.
        let (tell, told) = tokio::sync::mpsc::channel(8);
        let replaced = writer.replaced();
        tokio::select! {
            end = self.down(sink, reader, told) => end,
            end = self.up(stream, writer, tell) => end,
            () = replaced => End::Put("another client has attached"),
            () = self.caller.app().stopping.cancelled() => End::Put("the gateway is stopping"),
            () = self.withdrawn() => End::Put(WITHDRAWN),
        }
    }

    /// Returns once the caller may not be here any more.
    async fn withdrawn(&self) {
        self.caller.revoked(|| self.caller.uses(&self.vm, &self.process)).await;
    }

    async fn output_only(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        stream: &mut SplitStream<WebSocket>,
        reader: OutputReader,
    ) -> End {
        let (_tell, told) = tokio::sync::mpsc::channel(1);
        let gone = async { while let Some(Ok(_)) = stream.next().await {} };
        tokio::select! {
            end = self.down(sink, reader, told) => end,
            () = gone => End::Gone,
            () = self.caller.app().stopping.cancelled() => End::Put("the gateway is stopping"),
            () = self.withdrawn() => End::Put(WITHDRAWN),
        }
    }

    /// From the process to the client, as fast as the client takes it.
    async fn down(
        &self,
        sink: &mut SplitSink<WebSocket, Message>,
        mut reader: OutputReader,
        mut told: tokio::sync::mpsc::Receiver<String>,
    ) -> End {
        let mut over = false;
        // Whatever else is sent meanwhile: by the answers it is known that the client is there.
        let mut beat = interval_at(Instant::now() + self.heartbeat, self.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                biased;
                _ = beat.tick() => sink.send(Message::Ping(Default::default())).await,
                piece = reader.next(), if !over => match piece {
                    Some(Piece::Bytes { bytes, .. }) => sink.send(Message::Binary(bytes.into())).await,
                    Some(Piece::Gap { stream, from, to }) => {
                        let gap = GapBody::new(stream, from, to);
                        tell(sink, &Notice::Gap(gap)).await
                    }
                    None => {
                        over = true;
                        Ok(())
                    }
                },
                () = self.process.completed(), if over => {
                    let body = ProcessBody::brief(&self.process);
                    let _ = tell(sink, &Notice::Exit(&body)).await;
                    return End::Exited;
                }
                Some(error) = told.recv() => tell(sink, &Notice::Error(error)).await,
            };
            if sent.is_err() {
                return End::Gone;
            }
        }
    }

    /// From the client to the process, as fast as the process reads.
    async fn up(
        &self,
        stream: &mut SplitStream<WebSocket>,
        mut writer: InputWriter<'_>,
        tell: tokio::sync::mpsc::Sender<String>,
    ) -> End {
        // A client that is there answers a ping.
        let patience = self.heartbeat * 3;
        while let Ok(Some(Ok(message))) = timeout(patience, stream.next()).await {
            let done = match message {
                Message::Binary(bytes) => match writer.write(&bytes, false).await {
                    Ok(()) => Ok(()),
                    Err(InputError::TakenOver) => return End::Put("another client has attached"),
                    Err(error) => Err(error.to_string()),
                },
                Message::Text(text) => match serde_json::from_str(&text) {
                    Ok(Control::Detach(true)) => return End::Detached,
                    Ok(control) => self.control(control).await,
                    Err(error) => Err(format!("the message is not understood: {error}")),
                },
                Message::Close(_) => return End::Gone,
                Message::Ping(_) | Message::Pong(_) => Ok(()),
            };
            if let Err(error) = done
                && tell.send(error).await.is_err()
            {
                return End::Gone;
            }
        }
        End::Gone
    }

    async fn control(&self, control: Control) -> Result<(), String> {
        let (vm, process) = (&self.vm, &self.process);
        let done = match control {
            Control::Resize(size) if size.rows == 0 || size.cols == 0 => {
                return Err("rows and cols must be at least 1".into());
            }
            Control::Resize(size) => {
                vm.resize_process(process, size, vm.options(&XExecResize::INFO)).await
            }
            Control::Signal(name) => {
                let number = name.number().ok_or("no such signal")?;
                let options = vm.options(&XExecSignal::INFO);
                vm.signal_process(process, number, false, options).await
            }
            Control::Detach(_) => Ok(()),
        };
        done.map_err(|error| error.to_string())
    }
}

async fn tell(
    sink: &mut SplitSink<WebSocket, Message>,
    notice: &Notice<'_>,
) -> Result<(), axum::Error> {
    // Strings and numbers: the serialization cannot fail.
    let text = serde_json::to_string(notice).unwrap_or_default();
    sink.send(Message::Text(text.into())).await
}

/// Ends a process whose client has gone, however long that takes within reason: SIGHUP, and if it
/// is still there after a while SIGKILL.
async fn hang_up(vm: VmHandle, process: Arc<Process>) {
    let mut heard = false;
    for _ in 0..TRIES {
        let signal = if heard { 9 } else { 1 };
        let options = vm.options(&XExecSignal::INFO);
        let sent = vm.signal_process(&process, signal, false, options).await;
        heard |= sent.is_ok();
        if timeout(GRACE, process.completed()).await.is_ok() {
            return;
        }
    }
}
