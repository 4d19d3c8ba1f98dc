//! Programs that a command runs: in a session of their own, with a limit on time and output.
//!
//! The error texts are qemu-ga's. Unlike there, a program that never ends, or leaves a child that
//! holds its output open, cannot hold the agent up.

use std::ffi::OsStr;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use qga_proto::QgaError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{errno, sys};

/// Bytes of output that are kept, for the error text; more is read and dropped.
const MAX_OUTPUT: usize = 16 << 10;
/// How often an end is looked for that does not show in the output's pipe.
const GLANCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// Runs a program to its end. `action` completes the sentence "child process has failed to …".
pub(crate) fn run(command: &[&str], action: &str, patience: Duration) -> Result<(), QgaError> {
    let command: Vec<&OsStr> = command.iter().map(OsStr::new).collect();
    run_until(&command, action, patience, &AtomicBool::new(false))
}

/// As [`run`]; the program is killed, too, soon after `stop` becomes true.
pub(crate) fn run_until(
    command: &[&OsStr],
    action: &str,
    patience: Duration,
    stop: &AtomicBool,
) -> Result<(), QgaError> {
    let (program, arguments) =
        command.split_first().ok_or_else(|| QgaError::generic("no program"))?;
    let failed =
        |text: &str| QgaError::generic(format!("child process has failed to {action}: {text}"));
    let (output, writer) = std::io::pipe().map_err(|e| failed(&errno::of(&e)))?;
    let errors = writer.try_clone().map_err(|e| failed(&errno::of(&e)))?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(writer).stderr(errors);
    let child = sys::process::in_own_session(&mut command).spawn();
    // The command holds the writing end, and the output would never end.
    drop(command);
    let mut child = child.map_err(|e| {
        let program = program.display();
        failed(&format!("failed to exec '{program}': {}", errno::of(&e)))
    })?;

    let watched = watch(&mut child, output, patience, stop);
    let (status, text) = watched.map_err(|e| failed(&errno::of(&e)))?;
    let Some(status) = status else {
        if stop.load(Ordering::Relaxed) {
            return Err(failed("stopped"));
        }
        return Err(failed(&format!("no end after {} s", patience.as_secs())));
    };
    verdict(status, &text, &failed)
}

fn verdict(
    status: ExitStatus,
    output: &str,
    failed: &dyn Fn(&str) -> QgaError,
) -> Result<(), QgaError> {
    match (status.code(), output) {
        (Some(0), _) => Ok(()),
        (Some(code), "") => Err(failed(&format!("exit status {code}"))),
        (Some(_), output) => Err(failed(output)),
        (None, output) => {
            debug_assert!(status.signal().is_some());
            let colon = if output.is_empty() { "" } else { ": " };
            let text = format!("child process has terminated abnormally{colon}{output}");
            Err(QgaError::generic(text))
        }
    }
}

/// Waits for the child and collects its output; no status means that it was killed for taking too
/// long, or because of `stop`.
fn watch(
    child: &mut Child,
    mut output: std::io::PipeReader,
    patience: Duration,
    stop: &AtomicBool,
) -> std::io::Result<(Option<ExitStatus>, String)> {
    let deadline = Instant::now() + patience;
    let is_over = || Instant::now() > deadline || stop.load(Ordering::Relaxed);
    let mut kept = Vec::new();
    let mut buffer = vec![0; 4096];
    let mut open = true;
    loop {
        let status = child.try_wait()?;
        // What the child wrote before its end is in the pipe by now.
        let pause = if status.is_some() { Timespec { tv_sec: 0, tv_nsec: 0 } } else { GLANCE };
        while open {
            let mut readable = [PollFd::from_borrowed_fd(output.as_fd(), PollFlags::IN)];
            if poll(&mut readable, Some(&pause))? == 0 || is_over() {
                break;
            }
            let n = output.read(&mut buffer)?;
            open = n > 0;
            let room = MAX_OUTPUT.saturating_sub(kept.len());
            kept.extend_from_slice(&buffer[..n.min(room)]);
        }
        if status.is_some() {
            return Ok((status, String::from_utf8_lossy(&kept).into_owned()));
        }
        if is_over() {
            kill(child);
            return Ok((None, String::new()));
        }
        if !open {
            poll(&mut [], Some(&GLANCE))?;
        }
    }
}

/// Kills the whole session. A child that cannot even be killed within a second is left behind.
fn kill(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    for _ in 0..50 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        let _ = poll(&mut [], Some(&GLANCE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, patience: Duration) -> Result<(), String> {
        run(&["/bin/sh", "-c", script], "act", patience).map_err(|error| error.desc)
    }

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn results_are_worded_as_qemu_ga_does() {
        assert_eq!(sh("exit 0", LONG), Ok(()));
        let cases = [
            ("exit 3", "child process has failed to act: exit status 3"),
            ("echo a; echo b >&2; exit 1", "child process has failed to act: a\nb\n"),
            ("kill -9 $$", "child process has terminated abnormally"),
            ("echo x; kill -9 $$", "child process has terminated abnormally: x\n"),
        ];
        for (script, text) in cases {
            assert_eq!(sh(script, LONG), Err(text.to_owned()), "{script}");
        }
        let missing = run(&["/nonexistent/x"], "act", LONG).unwrap_err().desc;
        let text = "failed to exec '/nonexistent/x': No such file or directory";
        assert_eq!(missing, format!("child process has failed to act: {text}"));
    }

    #[test]
    fn a_program_without_end_is_killed_and_a_grandchild_is_not_waited_for() {
        let begun = Instant::now();
        let text = sh("sleep 60", Duration::from_millis(100)).unwrap_err();
        assert_eq!(text, "child process has failed to act: no end after 0 s");
        assert_eq!(sh("sleep 20 & exit 0", LONG), Ok(()));
        assert!(begun.elapsed() < Duration::from_secs(15));
    }

    #[test]
    fn output_is_bounded_and_the_session_is_its_own() {
        let text = sh("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", LONG).unwrap_err();
        assert!(text.len() < MAX_OUTPUT + 100, "{}", text.len());
        assert_eq!(sh("test $(ps -o sid= -p $$ || echo $$) -eq $$", LONG), Ok(()));
    }
}
