//! Bytes between the user's terminal and the WebSocket.

use std::io::{self, Read as _, Write as _};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use qga_proto::command::TerminalSize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::escape::Escape;
use super::say;
use super::terminal::{self, Raw};
use crate::client::Socket;

/// The character that ends a terminal's input.
const END_OF_INPUT: u8 = 4;

/// `SIGTSTP`, for which tokio has no name.
const TSTP: i32 = 20;

/// How a session ended.
pub(super) enum End {
    /// The program did, with this code.
    Exit(u8),
    /// The user wanted it.
    Detached,
    /// A signal told this process to.
    Signal,
    /// The gateway or the guest did.
    Lost(String),
}

pub(super) async fn run(mut socket: Socket, size: TerminalSize) -> anyhow::Result<End> {
    let mut resized = signal(SignalKind::window_change())?;
    let mut stopped = signal(SignalKind::from_raw(TSTP))?;
    let mut ends = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::hangup())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::quit())?,
    ];
    let (mut typed, screen) = (keyboard(), screen());
    // From here on every way out restores the terminal.
    let raw = Raw::enter().context("the terminal")?;
    let mut escape = Escape::default();
    if order(&mut socket, size).await.is_err() {
        return Ok(End::Lost("the connection to the gateway broke".into()));
    }
    let mut input_open = true;
    loop {
        let [term, hup, int, quit] = &mut ends;
        let sent = tokio::select! {
            bytes = typed.recv(), if input_open => match bytes {
                Some(bytes) => {
                    let (bytes, detach) = if raw.is_some() { escape.typed(&bytes) } else { (bytes, false) };
                    let sent = socket.send(Message::Binary(bytes.into())).await;
                    if detach {
                        let _ = socket.send(text(&json!({"detach": true}))).await;
                        // Until it is told, the gateway might take it for a loss.
                        while let Some(Ok(_)) = socket.next().await {}
                        drop(raw);
                        return Ok(End::Detached);
                    }
                    sent
                }
                None => {
                    input_open = false;
                    socket.send(Message::Binary(vec![END_OF_INPUT].into())).await
                }
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => {
                    if screen.send(bytes.into()).await.is_err() {
                        return Ok(End::Signal);
                    }
                    Ok(())
                }
                Some(Ok(Message::Text(told))) => match notice(&told) {
                    Some(end) => {
                        let _ = socket.close(None).await;
                        screen.finish().await;
                        drop(raw);
                        return Ok(end);
                    }
                    None => Ok(()),
                },
                Some(Ok(Message::Close(_))) | None => {
                    return Ok(End::Lost("the gateway closed the connection".into()));
                }
                Some(Ok(_)) => Ok(()),
                Some(Err(error)) => Err(error),
            },
            _ = resized.recv() => order(&mut socket, terminal::size()).await,
            _ = stopped.recv() => {
                if let Some(raw) = &raw {
                    raw.stop();
                }
                order(&mut socket, terminal::size()).await
            }
            _ = term.recv() => return Ok(End::Signal),
            _ = hup.recv() => return Ok(End::Signal),
            _ = int.recv() => return Ok(End::Signal),
            _ = quit.recv() => return Ok(End::Signal),
        };
        if sent.is_err() {
            return Ok(End::Lost("the connection to the gateway broke".into()));
        }
    }
}

type Sent = Result<(), tokio_tungstenite::tungstenite::Error>;

async fn order(socket: &mut Socket, size: TerminalSize) -> Sent {
    socket.send(text(&json!({"resize": size}))).await
}

fn text(value: &Value) -> Message {
    Message::Text(value.to_string().into())
}

/// What the gateway says of the program; its end, if it is that.
fn notice(told: &str) -> Option<End> {
    let told: Value = serde_json::from_str(told).unwrap_or_default();
    if let Some(exit) = told.get("exit") {
        let number = |name: &str| exit[name].as_i64().and_then(|n| u8::try_from(n & 0xFF).ok());
        return Some(match (number("exit_code"), number("signal")) {
            (Some(code), _) => End::Exit(code),
            (None, Some(signal)) => End::Exit(signal.wrapping_add(128)),
            (None, None) => {
                End::Lost(exit["reason"].as_str().unwrap_or("how it ended is not known").into())
            }
        });
    }
    if let Some(why) = told["detached"].as_str() {
        return Some(End::Lost(format!("detached: {why}")));
    }
    if let Some(error) = told["error"].as_str() {
        say(error);
    } else if let Some(missed) = told["gap"]["missed"].as_u64() {
        say(&format!("{missed} bytes of output are not kept any more"));
    }
    None
}

/// What is typed, read by a thread that nobody waits for.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (typed, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        loop {
            match io::stdin().read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if typed.blocking_send(buffer[..n].to_vec()).is_err() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    });
    receiver
}

/// Where output goes: a thread, so that a terminal that takes none stops nothing else.
struct Screen {
    bytes: mpsc::Sender<Vec<u8>>,
    done: tokio::sync::oneshot::Receiver<()>,
}

impl Screen {
    async fn send(&self, bytes: Vec<u8>) -> Result<(), mpsc::error::SendError<Vec<u8>>> {
        self.bytes.send(bytes).await
    }

    /// Waits until all of it is written.
    async fn finish(self) {
        drop(self.bytes);
        let _ = self.done.await;
    }
}

fn screen() -> Screen {
    let (bytes, mut receiver) = mpsc::channel::<Vec<u8>>(4);
    let (finished, done) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut out = io::stdout();
        while let Some(bytes) = receiver.blocking_recv() {
            if out.write_all(&bytes).and_then(|()| out.flush()).is_err() {
                return;
            }
        }
        let _ = finished.send(());
    });
    Screen { bytes, done }
}
