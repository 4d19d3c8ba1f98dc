//! From the arguments of `x-guest-exec-start` to a running program.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use qga_proto::QgaError;
use qga_proto::base64::Base64Text;
use qga_proto::command::{CaptureOutput, Overflow, TerminalSize, XExecStart};
use rustix::fs::{Mode, OFlags};
use rustix::io::{self, Errno};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, PidfdFlags, geteuid, pidfd_open};

use super::roster::Place;
use super::{named, terminal};
use crate::accounts::User;
use crate::exec::program::{search_path, search_paths};
use crate::sys::launch::{Ids, Launch, Record, Step, launch};
use crate::{errno, log};

/// What a user's programs find, as after a login.
const USER_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// What every terminal program and every terminal knows.
const TERM: &CStr = c"TERM=xterm-256color";

/// A program to be started.
#[derive(Debug)]
pub(crate) struct Order {
    pub(super) name: String,
    arguments: Vec<CString>,
    environment: Option<Vec<CString>>,
    directory: Option<CString>,
    user: Option<String>,
    pub(super) timeout: Option<Duration>,
    pub(super) capture: CaptureOutput,
    pub(super) overflow: Overflow,
    pub(super) input: Vec<u8>,
    pub(super) keep_stdin: bool,
    pub(super) pty: Option<TerminalSize>,
}

/// A program that was just started.
#[derive(Debug)]
pub(in crate::exec) struct Fresh {
    pub(super) order: Order,
    pub(super) pid: Pid,
    pub(super) pidfd: Option<OwnedFd>,
    /// The agent's ends; a terminal is that of standard output.
    pub(super) streams: [Option<OwnedFd>; 3],
}

impl Order {
    /// Reads the arguments.
    pub(crate) fn new(arguments: XExecStart) -> Result<Self, QgaError> {
        let XExecStart { argv, env, cwd, user, timeout_ms, .. } = arguments;
        let XExecStart { capture_output, overflow, input_data, keep_stdin, pty, .. } = arguments;
        let name = argv.first().filter(|name| !name.is_empty()).cloned();
        let name = name.ok_or_else(|| invalid("argv", "it names no program"))?;
        let c_texts = |argument, texts: Vec<String>| -> Result<Vec<CString>, QgaError> {
            texts.into_iter().map(|text| c_text(argument, text)).collect()
        };
        let timeout = match timeout_ms {
            None => None,
            Some(ms) => match u64::try_from(ms) {
                Ok(ms) if ms > 0 => Some(Duration::from_millis(ms)),
                _ => return Err(invalid("timeout-ms", "it must be 1 or more")),
            },
        };
        if pty.is_some_and(|size| size.rows == 0 || size.cols == 0) {
            return Err(invalid("pty", "rows and cols must be 1 or more"));
        }
        let decoded = input_data.map(Base64Text::decode).transpose();
        let input = decoded.map_err(|e| e.with_errno("EINVAL"))?.unwrap_or_default();
        Ok(Self {
            name,
            arguments: c_texts("argv", argv)?,
            environment: env.map(|env| c_texts("env", env)).transpose()?,
            directory: cwd.map(|cwd| c_text("cwd", cwd)).transpose()?,
            user,
            timeout,
            capture: capture_output.unwrap_or(CaptureOutput::None),
            overflow: overflow.unwrap_or_default(),
            input,
            keep_stdin: keep_stdin == Some(true),
            pty,
        })
    }

    /// Starts it. May take as long as a name service, or a filesystem.
    pub(super) fn carry_out(self, place: &Place) -> Result<Fresh, QgaError> {
        let failed = |step: &str, e: Errno| {
            let e = errno::text(e);
            format!("failed to start '{}'{step}: {e}", self.name)
        };
        let user = self.user.as_deref().map(|name| self.user(name)).transpose()?;
        // Nobody needs to become who he is.
        let other = user.as_ref().filter(|user| user.uid != geteuid() || user.uid.is_root());
        if let Some(User { name, .. }) = other
            && !geteuid().is_root()
        {
            let text = format!(
                "failed to start '{}' as user '{name}': that takes an agent that runs as root",
                self.name
            );
            return Err(named(text, Errno::PERM));
        }
        let environment = self.environment(user.as_ref());
        let paths = search_paths(self.arguments[0].as_bytes(), &search_path(&environment));
        let home = user.as_ref().and_then(|user| {
            use std::os::unix::ffi::OsStrExt as _;
            CString::new(user.home.as_os_str().as_bytes()).ok()
        });
        let directories: Vec<&CStr> = match (&self.directory, &home) {
            (Some(directory), _) => vec![directory],
            (None, Some(home)) => vec![home, c"/"],
            (None, None) => vec![c"/"],
        };
        let groups: Vec<u32> = other
            .map(|user| user.groups().into_iter().map(|group| group.as_raw()).collect())
            .unwrap_or_default();
        let ids = other.map(|user| Ids {
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            groups: &groups,
        });
        let owner = other.map(|user| user.uid);
        let streams = Streams::open(&self, owner)
            .map_err(|(what, e)| named(failed(&format!(" ({what})"), e), e))?;
        let file = place.open().map_err(|e| {
            let e = errno::of(&e);
            log::warning(format_args!("'{}' runs without being on record: {e}", self.name));
        });
        let record =
            file.as_ref().ok().map(|file| Record { file, at: place.offset(), head: &place.head });
        let pid = launch(&Launch {
            paths: &paths,
            arguments: &self.arguments,
            environment: &environment,
            streams: streams.theirs.each_ref().map(|stream| stream.as_fd()),
            terminal: self.pty.is_some(),
            ids,
            directories: &directories,
            record,
        });
        let pid = pid.map_err(|(step, e)| {
            let step = match (step, &self.directory, &user) {
                (Step::Directory, Some(directory), _) => {
                    format!(" in directory '{}'", directory.to_string_lossy())
                }
                (Step::User, _, Some(user)) => format!(" as user '{}'", user.name),
                _ => String::new(),
            };
            named(failed(&step, e), e)
        })?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok();
        Ok(Fresh { order: self, pid, pidfd, streams: streams.ours })
    }

    fn user(&self, name: &str) -> Result<User, QgaError> {
        User::named_or_numbered(name).ok_or_else(|| {
            let text = format!("failed to start '{}': there is no user '{name}'", self.name);
            named(text, Errno::INVAL)
        })
    }

    fn environment(&self, user: Option<&User>) -> Vec<CString> {
        let mut environment = match (&self.environment, user) {
            (Some(environment), _) => return environment.clone(),
            (None, Some(user)) => users_environment(user),
            (None, None) => crate::exec::program::agents_environment(),
        };
        let has_term = || environment.iter().any(|v| v.as_bytes().starts_with(b"TERM="));
        if self.pty.is_some() && !has_term() {
            environment.push(TERM.to_owned());
        }
        environment
    }
}

fn users_environment(user: &User) -> Vec<CString> {
    let shell = if user.shell.as_os_str().is_empty() { "/bin/sh".as_ref() } else { &*user.shell };
    let variables = [
        format!("HOME={}", user.home.display()),
        format!("USER={}", user.name),
        format!("LOGNAME={}", user.name),
        format!("SHELL={}", shell.display()),
        USER_PATH.to_owned(),
    ];
    // What comes from a line of a database has no NUL in it, but for what a service makes up.
    variables.into_iter().filter_map(|variable| CString::new(variable).ok()).collect()
}

/// Both ends of a program's streams.
struct Streams {
    ours: [Option<OwnedFd>; 3],
    theirs: [OwnedFd; 3],
}

impl Streams {
    fn open(order: &Order, owner: Option<rustix::fs::Uid>) -> Result<Self, (&'static str, Errno)> {
        use CaptureOutput::{Merged, Separated, Stderr, Stdout};
        let capture = order.capture;
        if let Some(size) = order.pty {
            let terminal = |e| ("a terminal", e);
            let (ours, theirs) = terminal::open(size, owner).map_err(terminal)?;
            io::ioctl_fionbio(&ours, true).map_err(terminal)?;
            let copy = || theirs.try_clone().map_err(|_| ("a terminal", Errno::MFILE));
            let copies = [copy()?, copy()?];
            let [input, output] = copies;
            return Ok(Self { ours: [None, Some(ours), None], theirs: [input, output, theirs] });
        }
        let pipe = |e| ("a pipe", e);
        let null = || {
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| ("/dev/null", e))
        };
        let input = if order.keep_stdin || !order.input.is_empty() {
            let (theirs, ours) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe)?;
            (theirs, Some(ours))
        } else {
            (null()?, None)
        };
        let output = |captured: bool| {
            if !captured {
                return Ok((null()?, None));
            }
            let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC).map_err(pipe)?;
            Ok((theirs, Some(ours)))
        };
        let (stdout, our_stdout) = output(matches!(capture, Stdout | Separated | Merged))?;
        let (stderr, our_stderr) = if capture == Merged {
            (stdout.try_clone().map_err(|_| ("a pipe", Errno::MFILE))?, None)
        } else {
            output(matches!(capture, Stderr | Separated))?
        };
        let (stdin, our_stdin) = input;
        let ours = [our_stdin, our_stdout, our_stderr];
        for ours in ours.iter().flatten() {
            // The program's end is another open file, and stays as it is.
            io::ioctl_fionbio(ours, true).map_err(pipe)?;
        }
        Ok(Self { ours, theirs: [stdin, stdout, stderr] })
    }
}

fn invalid(argument: &str, why: &str) -> QgaError {
    named(format!("invalid {argument}: {why}"), Errno::INVAL)
}

fn c_text(argument: &str, text: String) -> Result<CString, QgaError> {
    CString::new(text).map_err(|_| invalid(argument, "it has a NUL in it"))
}
