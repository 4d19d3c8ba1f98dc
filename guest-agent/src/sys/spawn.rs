//! Starting a program that gets nothing of the agent's but three streams.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr;

use rustix::io::Errno;
use rustix::process::Pid;

unsafe extern "C" {
    /// glibc 2.34; the libc crate does not declare it.
    fn posix_spawn_file_actions_addclosefrom_np(
        actions: *mut libc::posix_spawn_file_actions_t,
        from: libc::c_int,
    ) -> libc::c_int;
}

/// What to execute.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Image<'a> {
    /// The file; not looked for in any other place.
    pub(crate) path: &'a CStr,
    /// All arguments, the program's name first.
    pub(crate) arguments: &'a [CString],
    /// The whole environment.
    pub(crate) environment: &'a [CString],
}

/// Starts `image` with these as its standard input, output and error; `None` is /dev/null. No
/// other descriptor is open in it, and no signal blocked or ignored. All else is the agent's. Returns once the program has been executed, or failed to be.
pub(crate) fn spawn(image: Image<'_>, streams: [Option<BorrowedFd<'_>>; 3]) -> Result<Pid, Errno> {
    let mut actions = Actions::new()?;
    for ((target, stream), flags) in
        (0..).zip(streams).zip([libc::O_RDONLY, libc::O_WRONLY, libc::O_WRONLY])
    {
        match stream {
            Some(stream) => actions.duplicate(stream, target)?,
            None => actions.open_null(target, flags)?,
        }
    }
    actions.close_from(3)?;
    let attributes = Attributes::new()?;
    let arguments = pointers(image.arguments);
    let environment = pointers(image.environment);
    let mut pid = 0;
    // SAFETY: both arrays end with a null pointer and, like all that they point to, outlive the
    // call, which only reads them; actions and attributes are initialised.
    let failure = unsafe {
        libc::posix_spawn(
            &raw mut pid,
            image.path.as_ptr(),
            &raw const actions.0,
            &raw const attributes.0,
            arguments.as_ptr(),
            environment.as_ptr(),
        )
    };
    checked(failure)?;
    Pid::from_raw(pid).ok_or(Errno::CHILD)
}

fn pointers(texts: &[CString]) -> Vec<*mut libc::c_char> {
    texts.iter().map(|text| text.as_ptr().cast_mut()).chain([ptr::null_mut()]).collect()
}

/// These functions return the error instead of setting `errno`.
fn checked(failure: libc::c_int) -> Result<(), Errno> {
    if failure == 0 { Ok(()) } else { Err(Errno::from_raw_os_error(failure)) }
}

struct Actions(libc::posix_spawn_file_actions_t);

impl Actions {
    fn new() -> Result<Self, Errno> {
        let mut actions = MaybeUninit::uninit();
        // SAFETY: initialises what it gets, or fails.
        checked(unsafe { libc::posix_spawn_file_actions_init(actions.as_mut_ptr()) })?;
        // SAFETY: it has succeeded.
        Ok(Self(unsafe { actions.assume_init() }))
    }

    fn duplicate(&mut self, from: BorrowedFd<'_>, to: libc::c_int) -> Result<(), Errno> {
        // SAFETY: the actions are initialised; the numbers are only noted down here.
        checked(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, from.as_raw_fd(), to)
        })
    }

    fn open_null(&mut self, fd: libc::c_int, flags: libc::c_int) -> Result<(), Errno> {
        let null = c"/dev/null";
        // SAFETY: the actions are initialised, and the path is copied.
        checked(unsafe {
            libc::posix_spawn_file_actions_addopen(&raw mut self.0, fd, null.as_ptr(), flags, 0)
        })
    }

    fn close_from(&mut self, first: libc::c_int) -> Result<(), Errno> {
        // SAFETY: the actions are initialised.
        checked(unsafe { posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, first) })
    }
}

impl Drop for Actions {
    fn drop(&mut self) {
        // SAFETY: they are initialised and not used again.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

impl Attributes {
    fn new() -> Result<Self, Errno> {
        let mut attributes = MaybeUninit::uninit();
        // SAFETY: initialises what it gets, or fails.
        checked(unsafe { libc::posix_spawnattr_init(attributes.as_mut_ptr()) })?;
        // SAFETY: it has succeeded.
        let mut attributes = Self(unsafe { attributes.assume_init() });
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // Both flags fit into the type that the function wants.
        #[expect(clippy::cast_possible_truncation, reason = "0x04 | 0x08")]
        let flags = (libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK) as libc::c_short;
        // SAFETY: `sigemptyset` and `sigfillset` initialise the set before anything reads it, and the
        // attributes are initialised.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            checked(libc::posix_spawnattr_setsigmask(&raw mut attributes.0, set.as_ptr()))?;
            libc::sigfillset(set.as_mut_ptr());
            checked(libc::posix_spawnattr_setsigdefault(&raw mut attributes.0, set.as_ptr()))?;
            checked(libc::posix_spawnattr_setflags(&raw mut attributes.0, flags))?;
        }
        Ok(attributes)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: they are initialised and not used again.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitOptions, waitpid};
    use std::io::Read as _;
    use std::os::fd::AsFd as _;

    #[test]
    fn the_program_gets_three_streams_and_no_other_descriptor() {
        // A descriptor that is not closed by the execution itself.
        let inherited = std::fs::File::open("/").unwrap();
        rustix::io::fcntl_setfd(&inherited, rustix::io::FdFlags::empty()).unwrap();
        let (mut output, writer) = std::io::pipe().unwrap();
        let script = "cat; ls /proc/self/fd | tr '\\n' ' '; echo $A; grep SigBlk /proc/self/status";
        let arguments = ["sh", "-c", script].map(|text| CString::new(text).unwrap());
        let environment = [c"A=b".to_owned(), c"PATH=/bin:/usr/bin".to_owned()];
        let image = Image { path: c"/bin/sh", arguments: &arguments, environment: &environment };
        let pid = spawn(image, [None, Some(writer.as_fd()), None]).unwrap();
        drop(writer);
        let mut text = String::new();
        output.read_to_string(&mut text).unwrap();
        // `ls` has the directory that it lists open.
        assert_eq!(text, "0 1 2 3 b\nSigBlk:\t0000000000000000\n");
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn what_cannot_be_executed_is_known_at_once() {
        let image = Image { path: c"/nonexistent", arguments: &[], environment: &[] };
        assert_eq!(spawn(image, [None; 3]).unwrap_err(), Errno::NOENT);
        let image = Image { path: c"/etc/passwd", ..image };
        assert_eq!(spawn(image, [None; 3]).unwrap_err(), Errno::ACCESS);
    }
}
