//! A freeze that is held while a command runs.
//!
//! ```text
//!   frozen ──▶ command runs ──ends──▶ look at the lease ──▶ thaw ──▶ verdict
//!                │      ▲
//!         signal │      └── renewed each third of its time
//!                ▼
//!              passed on; killed after 10 s, or at the second
//! ```
//!
//! Should this program be killed, nobody renews, and the end of the lease's time thaws.

use std::ffi::OsString;
use std::io::{IsTerminal as _, stderr};
use std::os::unix::process::ExitStatusExt as _;
use std::pin::pin;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use hyper::Method;
use qga_gateway::client::{Failure, Gateway};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::show::{is_good, verdict};
use crate::cli::exit;
use crate::cli::out::{say, tell, text};
use crate::cli::signals::{self, Signals};

/// How long a command has to end once it was told to.
const GRACE: Duration = Duration::from_secs(10);

/// What shells exit with where a command is not there, or is none.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

pub(super) async fn run(
    gateway: &Gateway,
    lease: &Value,
    command: &[OsString],
    mut signals: Signals,
) -> anyhow::Result<ExitCode> {
    let id = lease["id"].as_str().unwrap_or_default();
    let mut child = Command::new(&command[0]);
    child.args(&command[1..]).env("QGA_LEASE", id);
    let ended = match child.spawn() {
        Ok(child) => attend(gateway, lease, child, &mut signals).await,
        Err(error) => {
            say(&format!("{}: {error}", command[0].display()));
            let found = error.kind() != std::io::ErrorKind::NotFound;
            Ended { code: if found { NOT_RUNNABLE } else { NOT_FOUND }, lost: false }
        }
    };
    // The one chance to learn that it was over before the command was: a thaw that comes late is
    // answered with the verdict of what was.
    let before = gateway.get(&path(lease)).await.unwrap_or_default();
    let early = before["thaw_cause"].as_str().filter(|cause| *cause != "requested");
    let thawed = match thaw(gateway, lease).await {
        Ok(thawed) => thawed,
        Err(failure) => {
            say(&failure.to_string());
            say(&format!(
                "{id} was not thawed by this; the gateway thaws it when its time is over. \
                 qga-gateway thaw {id} does so at once. Do not rely on what was copied"
            ));
            let failed = exit::number(&failure.into());
            return Ok(if ended.code == 0 { failed } else { ended.code }.into());
        }
    };
    tell(&verdict(&thawed));
    if let Some(cause) = early {
        say(&format!("the freeze had ended before the command did: {cause}"));
    }
    let held = is_good(&thawed) && early.is_none();
    if !held {
        say("do not rely on what was copied: the freeze did not hold");
    } else if ended.lost {
        say("the lease could not be renewed any more, and held all the same");
    }
    Ok(match ended.code {
        0 if !held => exit::NOT_HELD,
        code => code,
    }
    .into())
}

/// How the command did.
struct Ended {
    code: u8,
    /// Its lease could not be renewed any more.
    lost: bool,
}

/// Waits for the command, and renews meanwhile.
async fn attend(
    gateway: &Gateway,
    lease: &Value,
    mut child: Child,
    signals: &mut Signals,
) -> Ended {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let mut kept = pin!(keep(gateway, lease));
    let (mut lost, mut told) = (false, None);
    loop {
        tokio::select! {
            status = child.wait() => {
                let code = match (told, status) {
                    (Some(signal), _) => signals::code(signal),
                    (None, Ok(status)) => code(status),
                    (None, Err(_)) => exit::REFUSED,
                };
                return Ended { code, lost };
            }
            why = &mut kept, if !lost => {
                lost = true;
                say(&format!("the freeze is not held any more: {why}"));
            }
            signal = signals.next() => {
                // What a terminal sends, it sends to the command too.
                let both = [Signal::INT, Signal::QUIT].contains(&signal) && stderr().is_terminal();
                let signal_to_send = match told {
                    None => signal,
                    Some(_) => Signal::KILL,
                };
                if let Some(pid) = pid.filter(|_| !both || told.is_some()) {
                    let _ = kill_process(pid, signal_to_send);
                }
                told.get_or_insert(signal);
            }
            // Begins anew only with a signal, which is when it should.
            () = sleep(GRACE), if told.is_some() => {
                say("the command does not end, and is killed");
                let _ = child.start_kill();
            }
        }
    }
}

/// Renews for as long as that is possible; why it is not any more.
async fn keep(gateway: &Gateway, lease: &Value) -> String {
    let ttl = Duration::from_secs(lease["ttl_seconds"].as_u64().unwrap_or(60).max(1));
    let pause = ttl / 3;
    let body = json!({});
    loop {
        sleep(pause).await;
        // One that hangs is not waited for: the next may get through.
        let renewed = timeout(ttl, gateway.send(Method::PATCH, &path(lease), &body)).await;
        match renewed {
            Ok(Ok(now)) if now["state"] == "frozen" => {}
            Ok(Ok(now)) => return format!("its lease is {}", text(&now["state"])),
            Ok(Err(failure @ Failure::Refused(_))) => {
                let over = ["lease_conflict", "lease_not_found", "hold_limit", "forbidden"];
                if failure.code().is_some_and(|code| over.contains(&code)) {
                    return failure.to_string();
                }
                say(&failure.to_string());
            }
            Ok(Err(failure)) => say(&format!("{failure}; tries again")),
            Err(_) => {}
        }
    }
}

/// Ends the lease, also while the gateway is being restarted.
pub(super) async fn thaw(gateway: &Gateway, lease: &Value) -> Result<Value, Failure> {
    gateway.insist(Method::DELETE, &path(lease)).await
}

fn path(lease: &Value) -> String {
    format!("/freezes/{}", lease["id"].as_str().unwrap_or_default())
}

fn code(status: ExitStatus) -> u8 {
    let (code, signal) = (status.code(), status.signal());
    exit::of_process(code.map(i64::from), signal.map(i64::from)).unwrap_or(exit::REFUSED)
}
