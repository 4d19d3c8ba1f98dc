//! Writing an upload to disk beside everything else, before its commit.
//!
//! ```text
//!   idle ── polled ──▶ writing ── done ──▶ done ── polled ──▶ idle
//!                         └── failed, for good
//! ```
//!
//! A disk may take minutes. In the file worker that would hold up every other file, and on the wire
//! everything else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use super::failure::Failure;

/// Stack of such a thread, in bytes.
const STACK: usize = 64 << 10;

/// That of one upload: one thread at most.
#[derive(Debug, Default)]
pub(super) struct Writeback(Arc<Mutex<State>>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Idle,
    Writing,
    Done,
    /// The kernel tells it no second time.
    Failed(Errno),
}

impl Writeback {
    /// True once everything is on disk that was written before this was asked first. `prepare` gives
    /// what writes it, on a thread of its own.
    pub(super) fn poll<W>(
        &self,
        prepare: impl FnOnce() -> Result<W, Errno>,
    ) -> Result<bool, Failure>
    where
        W: FnOnce() -> Result<(), Errno> + Send + 'static,
    {
        let mut state = lock(&self.0);
        match *state {
            State::Writing => return Ok(false),
            State::Failed(errno) => return Err(errno.into()),
            State::Done => {
                *state = State::Idle;
                return Ok(true);
            }
            State::Idle => {}
        }
        let write = prepare()?;
        let shared = Arc::clone(&self.0);
        std::thread::Builder::new().name("writeback".into()).stack_size(STACK).spawn(
            move || {
                let state = match write() {
                    // The filesystem does not do that.
                    Ok(()) | Err(Errno::INVAL) => State::Done,
                    Err(errno) => State::Failed(errno),
                };
                *lock(&shared) = state;
            },
        )?;
        *state = State::Writing;
        Ok(false)
    }

    /// Whether it has failed so far.
    pub(super) fn result(&self) -> Result<(), Errno> {
        match *lock(&self.0) {
            State::Failed(errno) => Err(errno),
            _ => Ok(()),
        }
    }
}

/// Nothing panics under this lock.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::time::{Duration, Instant};

    use super::*;

    type Write = Box<dyn FnOnce() -> Result<(), Errno> + Send>;

    fn until_done(writeback: &Writeback) -> Result<(), Errno> {
        let start = Instant::now();
        loop {
            match writeback.poll(|| -> Result<Write, Errno> { unreachable!("one is enough") }) {
                Ok(true) => return Ok(()),
                Ok(false) => assert!(start.elapsed() < Duration::from_secs(20)),
                Err(failure) => return Err(failure.errno),
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn nobody_waits_while_the_disk_takes_its_time() {
        let writeback = Writeback::default();
        for _ in 0..2 {
            let (go, gone) = channel::<()>();
            let write = move || gone.recv().map_err(|_| Errno::IO);
            assert_eq!(writeback.poll(|| Ok(write)), Ok(false));
            for _ in 0..3 {
                let other = writeback.poll(|| -> Result<Write, Errno> { unreachable!("it runs") });
                assert_eq!(other, Ok(false));
            }
            go.send(()).unwrap();
            assert_eq!(until_done(&writeback), Ok(()));
            assert_eq!(writeback.result(), Ok(()));
        }
    }

    #[test]
    fn a_failure_stays_one() {
        let writeback = Writeback::default();
        assert_eq!(writeback.poll(|| Ok(|| Err(Errno::NOSPC))), Ok(false));
        for _ in 0..2 {
            assert_eq!(until_done(&writeback), Err(Errno::NOSPC));
        }
        assert_eq!(writeback.result(), Err(Errno::NOSPC));
    }
}
