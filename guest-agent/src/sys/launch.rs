//! Starting a program as somebody, somewhere, in a session and perhaps on a terminal of its own.
//!
//! ```text
//!   fork ─▶ signals ─▶ session ─▶ streams ─▶ descriptors ─▶ terminal ─▶ record ─▶ user ─▶ directory ─▶ exec
//! ```
//!
//! The new process is a copy of the agent until it executes. So before anything that can hang, it
//! lets go of the agent's descriptors: a virtio port can be opened only once. A step that fails is
//! told over a pipe that the execution closes.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{PipeReader, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::ptr;

use libc::c_int;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, getpid, waitpid};

use super::threads::close_range;

/// Bytes that a process leaves on record: what the agent gives it to begin with, and then its
/// `/proc/self/stat`, cut off.
pub(crate) const RECORD: usize = 512;

/// What to start.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    /// The files to try one after the other; not looked for in any other place.
    pub(crate) paths: &'a [CString],
    /// All arguments, the program's name first.
    pub(crate) arguments: &'a [CString],
    /// The whole environment.
    pub(crate) environment: &'a [CString],
    /// Standard input, output and error; each has a number above theirs.
    pub(crate) streams: [BorrowedFd<'a>; 3],
    /// Standard input is a terminal, which becomes that of the session.
    pub(crate) terminal: bool,
    /// Whose it is, if not the agent's own user's.
    pub(crate) ids: Option<Ids<'a>>,
    /// Directories to try one after the other.
    pub(crate) directories: &'a [&'a CStr],
    /// Where the process writes itself down.
    pub(crate) record: Option<Record<'a>>,
}

/// A user with all groups.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ids<'a> {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: &'a [u32],
}

/// A place in a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: i64,
    /// What stands in front.
    pub(crate) head: &'a [u8],
}

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Prepare = 0,
    User = 1,
    Directory = 2,
    Execute = 3,
}

/// Starts a program. Returns once it has been executed, or failed to be.
pub(crate) fn launch(launch: &Launch<'_>) -> Result<Pid, (Step, Errno)> {
    let prepare =
        |e: std::io::Error| (Step::Prepare, Errno::from_io_error(&e).unwrap_or(Errno::IO));
    let (reader, writer) = std::io::pipe().map_err(prepare)?;
    let mut plan = Plan::new(launch, writer.as_raw_fd());
    // SAFETY: the child makes only calls that are allowed there: it allocates nothing, takes no
    // lock and does not return. All that it reads was made before, and it has a copy of that.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(prepare(std::io::Error::last_os_error())),
        0 => plan.carry_out(),
        pid => pid,
    };
    drop(writer);
    let pid = Pid::from_raw(pid).ok_or((Step::Prepare, Errno::CHILD))?;
    failure(reader).map_or(Ok(pid), |failure| {
        // It ends at once.
        while matches!(waitpid(Some(pid), WaitOptions::empty()), Err(Errno::INTR)) {}
        Err(failure)
    })
}

/// What the child says before it ends; nothing, if it has become the program.
fn failure(mut reader: PipeReader) -> Option<(Step, Errno)> {
    let mut told = Vec::new();
    // Less than a pipe holds, written at once. A pipe's end cannot fail to be read.
    let _ = reader.read_to_end(&mut told);
    let [step, errno @ ..] = <[u8; 5]>::try_from(told).ok()?;
    let step = match step {
        1 => Step::User,
        2 => Step::Directory,
        3 => Step::Execute,
        _ => Step::Prepare,
    };
    Some((step, Errno::from_raw_os_error(i32::from_ne_bytes(errno))))
}

/// All that the child needs, made before the fork.
struct Plan<'a> {
    launch: &'a Launch<'a>,
    paths: Vec<*const libc::c_char>,
    arguments: Vec<*const libc::c_char>,
    /// The arguments of the shell that runs a file which the kernel takes for no program; the file
    /// has the second place.
    script: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    record: [u8; RECORD],
    /// The agent is not the one to go when memory is short; what it starts may be.
    preferred: bool,
    agent: c_int,
    report: RawFd,
}

type Failure = (Step, c_int);

impl<'a> Plan<'a> {
    fn new(launch: &'a Launch<'a>, report: RawFd) -> Self {
        let pointers =
            |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<_>>();
        let mut arguments = pointers(launch.arguments);
        let mut script = vec![SHELL.as_ptr(), ptr::null()];
        script.extend(arguments.iter().skip(1));
        let mut environment = pointers(launch.environment);
        for list in [&mut arguments, &mut script, &mut environment] {
            list.push(ptr::null());
        }
        let mut record = [0; RECORD];
        if let Some(Record { head, .. }) = launch.record {
            for (to, from) in record.iter_mut().zip(head) {
                *to = *from;
            }
        }
        Self {
            launch,
            paths: pointers(launch.paths),
            arguments,
            script,
            environment,
            record,
            preferred: OOM_SCORE
                .to_str()
                .ok()
                .and_then(|path| std::fs::read_to_string(path).ok())
                .is_some_and(|score| score.starts_with('-')),
            agent: getpid().as_raw_nonzero().get(),
            report,
        }
    }

    /// In the child.
    fn carry_out(&mut self) -> ! {
        let (step, errno) = match self.become_the_program() {
            Err(failure) => failure,
            Ok(never) => match never {},
        };
        let [a, b, c, d] = errno.to_ne_bytes();
        let told = [step as u8, a, b, c, d];
        // SAFETY: writes from an array that is there, and ends the process without running
        // anything of it.
        unsafe {
            libc::write(self.report, told.as_ptr().cast(), told.len());
            libc::_exit(127)
        }
    }

    fn become_the_program(&mut self) -> Result<std::convert::Infallible, Failure> {
        self.leave_the_agent().map_err(|e| (Step::Prepare, e))?;
        self.write_down();
        // SAFETY: no pointers.
        if unsafe { libc::getppid() } != self.agent {
            // Killed meanwhile. The next agent may have looked at the record already.
            return Err((Step::Prepare, libc::ESRCH));
        }
        self.become_user().map_err(|e| (Step::User, e))?;
        self.enter_directory().map_err(|e| (Step::Directory, e))?;
        Err((Step::Execute, self.execute()))
    }

    fn leave_the_agent(&self) -> Result<(), c_int> {
        // SAFETY: no code of the agent is to run on a signal, and all pointers are to what is
        // there. The numbers of descriptors are those of the copies in this process.
        unsafe {
            super::signals::reset_all();
            if libc::setsid() < 0 {
                return Err(errno());
            }
            for (target, stream) in (0..).zip(&self.launch.streams) {
                if libc::dup2(stream.as_raw_fd(), target) < 0 {
                    return Err(errno());
                }
            }
            let record = self.launch.record.map_or(self.report, |record| record.file.as_raw_fd());
            close_all_but(self.report, record);
            if self.launch.terminal && libc::ioctl(0, libc::TIOCSCTTY, 0) < 0 {
                return Err(errno());
            }
            let score =
                if self.preferred { libc::open(OOM_SCORE.as_ptr(), libc::O_WRONLY) } else { -1 };
            if score >= 0 {
                libc::write(score, c"0".as_ptr().cast(), 1);
                libc::close(score);
            }
        }
        Ok(())
    }

    /// One that cannot be written down runs all the same.
    fn write_down(&mut self) {
        let Some(Record { file, at, head }) = self.launch.record else { return };
        let Some((_, rest)) = self.record.split_at_mut_checked(head.len()) else { return };
        // SAFETY: reads into and writes from arrays of these lengths.
        unsafe {
            let stat = libc::open(c"/proc/self/stat".as_ptr(), libc::O_RDONLY);
            if stat < 0 {
                return;
            }
            libc::read(stat, rest.as_mut_ptr().cast(), rest.len());
            libc::close(stat);
            libc::pwrite(file.as_raw_fd(), self.record.as_ptr().cast(), RECORD, at);
            libc::close(file.as_raw_fd());
        }
    }

    fn become_user(&self) -> Result<(), c_int> {
        let Some(Ids { uid, gid, groups }) = self.launch.ids else { return Ok(()) };
        // SAFETY: the list has that many entries. There is one thread here, so the C library asks
        // no other one to follow.
        let done = unsafe {
            libc::setgroups(groups.len(), groups.as_ptr()) == 0
                && libc::setresgid(gid, gid, gid) == 0
                && libc::setresuid(uid, uid, uid) == 0
        };
        if done { Ok(()) } else { Err(errno()) }
    }

    fn enter_directory(&self) -> Result<(), c_int> {
        let mut first = None;
        for directory in self.launch.directories {
            // SAFETY: the path is a string.
            if unsafe { libc::chdir(directory.as_ptr()) } == 0 {
                return Ok(());
            }
            first = first.or_else(|| Some(errno()));
        }
        first.map_or(Ok(()), Err)
    }

    /// By GLib's rules, which qemu-ga's clients know.
    fn execute(&mut self) -> c_int {
        let mut last = libc::ENOENT;
        let mut forbidden = false;
        for &path in &self.paths {
            // SAFETY: the path is a string, and both lists end with a null pointer.
            unsafe { libc::execve(path, self.arguments.as_ptr(), self.environment.as_ptr()) };
            last = errno();
            if last == libc::ENOEXEC
                && let Some(place) = self.script.get_mut(1)
            {
                *place = path;
                let script = self.script.as_ptr();
                // SAFETY: as above.
                unsafe { libc::execve(SHELL.as_ptr(), script, self.environment.as_ptr()) };
                last = errno();
            }
            match last {
                libc::EACCES => forbidden = true,
                libc::ENOENT | libc::ENOTDIR | libc::ESTALE | libc::ENODEV | libc::ETIMEDOUT => {}
                _ => return last,
            }
        }
        if forbidden { libc::EACCES } else { last }
    }
}

const SHELL: &CStr = c"/bin/sh";
const OOM_SCORE: &CStr = c"/proc/self/oom_score_adj";

fn errno() -> c_int {
    // SAFETY: the pointer is valid in every thread.
    unsafe { *libc::__errno_location() }
}

/// Closes all descriptors but the standard streams and these.
fn close_all_but(one: RawFd, other: RawFd) {
    let (low, high) = (one.min(other).cast_unsigned(), one.max(other).cast_unsigned());
    for (first, last) in
        [(3, low - 1), (low + 1, high.wrapping_sub(1)), (high + 1, libc::c_uint::MAX)]
    {
        if first <= last {
            close_range(first, last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd as _;

    #[test]
    fn what_fails_is_told_with_its_step() {
        let null = File::open("/dev/null").unwrap();
        let streams = [null.as_fd(); 3];
        let name = |name: &str| vec![CString::new(name).unwrap()];
        let (missing, shell) = (name("/nonexistent/x"), name("/bin/sh"));
        let attempt = |paths: &[CString], directory: &CStr, terminal, ids| {
            launch(&Launch {
                paths,
                arguments: paths,
                environment: &[],
                streams,
                terminal,
                ids,
                directories: &[directory],
                record: None,
            })
        };
        assert_eq!(attempt(&missing, c"/", false, None), Err((Step::Execute, Errno::NOENT)));
        assert_eq!(attempt(&shell, c"/nope", false, None), Err((Step::Directory, Errno::NOENT)));
        assert_eq!(attempt(&shell, c"/", true, None), Err((Step::Prepare, Errno::NOTTY)));
        if !rustix::process::geteuid().is_root() {
            let ids = Some(Ids { uid: 1, gid: 1, groups: &[1] });
            assert_eq!(attempt(&shell, c"/", false, ids), Err((Step::User, Errno::PERM)));
        }
    }
}
