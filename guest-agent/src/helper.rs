//! Programs that a command runs: in a session of their own, with a limit on time and output.
//!
//! The error texts are qemu-ga's. Unlike there, a program that never ends, or leaves a child that
//! holds its output open, cannot hold the agent up.

use std::ffi::OsStr;
use std::io::{Read as _, Write as _};
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

/// What a new process does before it becomes the program.
type Prepare = Box<dyn FnMut() + Send + Sync>;

/// What never stops a program.
static NEVER: AtomicBool = AtomicBool::new(false);

/// Runs a program to its end. `action` completes the sentence "child process has failed to …".
pub(crate) fn run(command: &[&str], action: &str, patience: Duration) -> Result<(), QgaError> {
    run_to_end(command, None, action, patience, &NEVER, None)
}

/// The same for a program that reads `input`, of at most 64 KiB, from its standard input.
pub(crate) fn run_with_input(
    command: &[&str],
    input: &[u8],
    action: &str,
    patience: Duration,
) -> Result<(), QgaError> {
    run_to_end(command, Some(input), action, patience, &NEVER, None)
}

/// As [`run`]; the program is killed, too, soon after `stop` becomes true. `prepare` is called in
/// the new process between fork and exec, and must not allocate.
pub(crate) fn run_until(
    command: &[&OsStr],
    action: &str,
    patience: Duration,
    stop: &AtomicBool,
    prepare: impl FnMut() + Send + Sync + 'static,
) -> Result<(), QgaError> {
    run_to_end(command, None, action, patience, stop, Some(Box::new(prepare)))
}

fn run_to_end(
    command: &[impl AsRef<OsStr>],
    input: Option<&[u8]>,
    action: &str,
    patience: Duration,
    stop: &AtomicBool,
    prepare: Option<Prepare>,
) -> Result<(), QgaError> {
    let failed =
        |text: &str| QgaError::generic(format!("child process has failed to {action}: {text}"));
    let input = input.map_or_else(|| Ok(Stdio::null()), filled_pipe);
    let input = input.map_err(|e| failed(&errno::of(&e)))?;
    let ended = match start(command, input, Errors::Kept, prepare) {
        Ok((mut child, output)) => watch(&mut child, output, patience, stop),
        Err(e) => {
            let program = command.first().map(|program| program.as_ref().display().to_string());
            let program = program.unwrap_or_default();
            return Err(failed(&format!("failed to exec '{program}': {}", errno::of(&e))));
        }
    };
    let (status, text) = ended.map_err(|e| failed(&errno::of(&e)))?;
    let Some(status) = status else {
        if stop.load(Ordering::Relaxed) {
            return Err(failed("stopped"));
        }
        return Err(failed(&format!("no end after {} s", patience.as_secs())));
    };
    verdict(status, &text, &failed)
}

/// Runs a program for its exit code alone. There is none when it cannot be started, is killed, or
/// does not end in time.
pub(crate) fn exit_code(command: &[&str], patience: Duration) -> Option<i32> {
    let (mut child, output) = start(command, Stdio::null(), Errors::Dropped, None).ok()?;
    let (status, _) = watch(&mut child, output, patience, &NEVER).ok()?;
    status?.code()
}

/// The output of a program that has succeeded; what it says of errors is dropped.
pub(crate) fn output(command: &[&str], patience: Duration) -> Option<Vec<u8>> {
    let (mut child, output) = start(command, Stdio::null(), Errors::Dropped, None).ok()?;
    let (status, text) = watch(&mut child, output, patience, &NEVER).ok()?;
    status?.success().then(|| text.into_bytes())
}

/// What becomes of standard error.
#[derive(Clone, Copy)]
enum Errors {
    /// It goes where standard output goes.
    Kept,
    Dropped,
}

fn start(
    command: &[impl AsRef<OsStr>],
    input: Stdio,
    errors: Errors,
    prepare: Option<Prepare>,
) -> std::io::Result<(Child, std::io::PipeReader)> {
    let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let (output, writer) = std::io::pipe()?;
    let errors = match errors {
        Errors::Kept => writer.try_clone()?.into(),
        Errors::Dropped => Stdio::null(),
    };
    let mut command = Command::new(program);
    command.args(arguments).stdin(input).stdout(writer).stderr(errors);
    // The command holds the writing end; it goes here, or the output would never end.
    sys::process::in_own_session(&mut command);
    if let Some(prepare) = prepare {
        sys::process::prepared(&mut command, prepare);
    }
    Ok((command.spawn()?, output))
}

/// A pipe with all of the input in it already, so that nobody has to wait for its reader.
fn filled_pipe(input: &[u8]) -> std::io::Result<Stdio> {
    let (reader, mut writer) = std::io::pipe()?;
    rustix::io::ioctl_fionbio(&writer, true)?;
    writer.write_all(input)?;
    Ok(reader.into())
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
    fn an_exit_code_is_that_of_a_program_that_ended() {
        let code = |script| exit_code(&["/bin/sh", "-c", script], LONG);
        assert_eq!((code("exit 0"), code("echo x; exit 3")), (Some(0), Some(3)));
        assert_eq!((code("kill -9 $$"), exit_code(&["/nonexistent/x"], LONG)), (None, None));
        assert_eq!(exit_code(&["sleep", "60"], Duration::from_millis(50)), None);
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
    fn input_is_there_and_ends() {
        let wanted = |input: &[u8], script| {
            run_with_input(&["/bin/sh", "-c", script], input, "act", LONG)
                .map_err(|error| error.desc)
        };
        assert_eq!(wanted(b"a\nb", "test \"$(cat)\" = 'a\nb'"), Ok(()));
        assert_eq!(wanted(&[b'x'; 65536], "test $(wc -c) -eq 65536"), Ok(()));
        // Not read at all, and more than a pipe takes.
        assert_eq!(wanted(&[b'x'; 65536], "exit 0"), Ok(()));
        let text = "child process has failed to act: Resource temporarily unavailable";
        assert_eq!(wanted(&[b'x'; 65537], "exit 0"), Err(text.into()));
    }

    #[test]
    fn output_is_that_of_a_success() {
        let sh = |script| output(&["/bin/sh", "-c", script], LONG);
        assert_eq!(sh("echo a; echo b >&2"), Some(b"a\n".to_vec()));
        assert_eq!(sh("echo a; exit 2"), None);
        assert_eq!(output(&["/nonexistent/x"], LONG), None);
    }

    #[test]
    fn output_is_bounded_and_the_session_is_its_own() {
        let text = sh("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", LONG).unwrap_err();
        assert!(text.len() < MAX_OUTPUT + 100, "{}", text.len());
        assert_eq!(sh("test $(ps -o sid= -p $$ || echo $$) -eq $$", LONG), Ok(()));
    }
}
