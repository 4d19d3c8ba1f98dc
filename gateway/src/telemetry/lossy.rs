//! Lines to a descriptor that may be slow, full or closed: whoever logs never waits for it.
//!
//! A thread of its own writes what has gathered. What finds no room is lost, counted, and said
//! once there is room again; what the descriptor refuses is lost.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tracing_subscriber::fmt::MakeWriter;

/// How much may wait to be written: some thousand lines.
const ROOM: usize = 1 << 20;

/// How long lines gather after some were written.
const LINGERS: Duration = Duration::from_millis(5);

/// Takes lines and never blocks; a clone leads to the same place.
#[derive(Clone, Debug)]
pub(super) struct Lossy(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// The thread is to go on.
    go: Condvar,
    /// Something was written.
    written: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lost: u64,
    writing: bool,
    rest: Rest,
    finishing: usize,
}

/// What the thread does when it does not write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rest {
    /// Nothing: it is on its way.
    #[default]
    No,
    /// It lets lines gather for a moment, and wants to be woken only by a lot of them.
    Lingers,
    /// It wants to be woken by the next line.
    Sleeps,
}

impl Lossy {
    /// Starts the thread that writes. `said` words the line about lines that were lost.
    pub(super) fn start(to: OwnedFd, said: fn(u64) -> String) -> io::Result<Self> {
        let lossy = Self(Arc::default());
        let shared = lossy.0.clone();
        std::thread::Builder::new().name("log".into()).spawn(move || shared.write_on(&to, said))?;
        Ok(lossy)
    }

    /// Adds a whole line.
    pub(super) fn push(&self, line: &[u8]) {
        let mut waiting = self.0.lock();
        if waiting.bytes.len() + line.len() > ROOM {
            waiting.lost += 1;
            return;
        }
        waiting.bytes.extend_from_slice(line);
        let wake = match waiting.rest {
            Rest::No => false,
            Rest::Lingers => waiting.bytes.len() > ROOM / 2,
            Rest::Sleeps => true,
        };
        if wake {
            waiting.rest = Rest::No;
            drop(waiting);
            self.0.go.notify_one();
        }
    }

    /// Waits until all is written, but no longer than `most`.
    pub(super) fn finish(&self, most: Duration) {
        let mut waiting = self.0.lock();
        waiting.finishing += 1;
        waiting.rest = Rest::No;
        self.0.go.notify_one();
        let busy = |waiting: &mut Waiting| waiting.writing || !waiting.bytes.is_empty();
        let done = self.0.written.wait_timeout_while(waiting, most, busy);
        done.unwrap_or_else(PoisonError::into_inner).0.finishing -= 1;
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_on(&self, to: &OwnedFd, said: fn(u64) -> String) {
        let mut waiting = self.lock();
        loop {
            if waiting.bytes.is_empty() && waiting.lost == 0 {
                waiting.rest = Rest::Sleeps;
                let sleeps = |waiting: &mut Waiting| waiting.rest == Rest::Sleeps;
                let woken = self.go.wait_while(waiting, sleeps);
                waiting = woken.unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let mut bytes = std::mem::take(&mut waiting.bytes);
            let lost = std::mem::take(&mut waiting.lost);
            waiting.writing = true;
            drop(waiting);
            if lost > 0 {
                bytes.extend_from_slice(said(lost).as_bytes());
            }
            write_all(to, &bytes);
            waiting = self.lock();
            waiting.writing = false;
            if waiting.finishing > 0 {
                self.written.notify_all();
                continue;
            }
            // A line per request and a wake-up per line would cost each request one.
            waiting.rest = Rest::Lingers;
            let lingers = |waiting: &mut Waiting| waiting.rest == Rest::Lingers;
            let woken = self.go.wait_timeout_while(waiting, LINGERS, lingers);
            waiting = woken.unwrap_or_else(PoisonError::into_inner).0;
            waiting.rest = Rest::No;
        }
    }
}

fn write_all(to: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(written @ 1..) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            // Somebody else made it non-blocking.
            Err(Errno::AGAIN) => {
                if poll(&mut [PollFd::new(to, PollFlags::OUT)], None).is_err() {
                    return;
                }
            }
            // Nobody can be told.
            Ok(0) | Err(_) => return,
        }
    }
}

/// The subscriber writes each event in one piece.
impl io::Write for &Lossy {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lossy {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};

    fn said(lost: u64) -> String {
        format!("{lost} lost\n")
    }

    #[test]
    fn a_reader_that_sleeps_costs_lines_and_no_time() {
        let (reader, writer) = io::pipe().unwrap();
        let log = Lossy::start(writer.into(), said).unwrap();
        let line = [b"x".repeat(1023), b"\n".to_vec()].concat();
        let lines = 3 * ROOM / line.len();
        for _ in 0..lines {
            log.push(&line);
        }
        log.finish(Duration::from_millis(20));
        let (mut read, mut lost) = (0, 0);
        for line in BufReader::new(reader).lines() {
            let line = line.unwrap();
            match line.strip_suffix(" lost") {
                Some(count) => lost += count.parse::<usize>().unwrap(),
                None => read += 1,
            }
            if read + lost == lines {
                break;
            }
        }
        assert!(lost > 0);
    }

    #[test]
    fn a_closed_pipe_is_nothing_to_die_of() {
        let (reader, writer) = io::pipe().unwrap();
        let log = Lossy::start(writer.into(), said).unwrap();
        drop(reader);
        for _ in 0..3 {
            log.push(b"nobody reads this\n");
            log.finish(Duration::from_secs(10));
            assert!(!log.0.lock().writing && log.0.lock().bytes.is_empty());
        }
    }

    #[test]
    fn all_is_written_before_the_end() {
        let (reader, writer) = io::pipe().unwrap();
        let log = Lossy::start(writer.into(), said).unwrap();
        log.push(b"one\n");
        log.push(b"two\n");
        log.finish(Duration::from_secs(10));
        let mut lines = BufReader::new(reader).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "one");
        assert_eq!(lines.next().unwrap().unwrap(), "two");
    }
}
