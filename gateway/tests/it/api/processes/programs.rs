//! An agent with `x-guest-exec-…`, or a stock one, whose programs do what a test says.

mod commands;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use qga_proto::command::{OutputStream, Overflow, XExecNews, XExecProgram, XExecStart, XExecWait};
use qga_proto::{Job, Outcome, Server, Ticket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// What the guest keeps of a stream.
const RING: usize = 64 << 10;

/// What it takes of input before the program reads.
const WINDOW: usize = 16 << 10;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Programs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
    stock: bool,
}

#[derive(Debug, Default)]
struct State {
    run: u64,
    next: i64,
    by_handle: BTreeMap<i64, Program>,
    asked: Vec<&'static str>,
    frozen: bool,
    /// So many more bytes go out before the connection is cut.
    cut: Option<usize>,
    signals: Vec<(i64, i64)>,
    last_start: Option<XExecStart>,
    last_exec: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Program {
    pid: i64,
    name: String,
    streams: [Option<Stream>; 2],
    overflow: Overflow,
    exit: Option<(Option<i64>, Option<i64>)>,
    pub(crate) input: Vec<u8>,
    read: usize,
    open: bool,
    pty: bool,
}

#[derive(Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    start: u64,
    eof: bool,
}

impl Stream {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

impl Programs {
    pub(crate) fn extension() -> Self {
        Self::new(false)
    }

    pub(crate) fn stock() -> Self {
        Self::new(true)
    }

    fn new(stock: bool) -> Self {
        let state = State { next: 100, ..State::default() };
        let changed = watch::channel(0).0;
        Self(Arc::new(Inner { state: Mutex::new(state), changed, stock }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn changed(&self) {
        self.0.changed.send_modify(|n| *n += 1);
    }

    /// What the program writes, as far as there is room; all of it, if the oldest gives way.
    pub(crate) fn write(&self, handle: i64, stream: OutputStream, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let Some(program) = state.by_handle.get_mut(&handle) else { return bytes.len() };
        let overflow = program.overflow;
        let Some(kept) = &mut program.streams[stream as usize] else { return bytes.len() };
        let taken = match overflow {
            Overflow::Drop => bytes.len(),
            Overflow::Wait => bytes.len().min(RING - kept.bytes.len().min(RING)),
        };
        kept.bytes.extend_from_slice(&bytes[..taken]);
        let over = if self.0.stock { 0 } else { kept.bytes.len().saturating_sub(RING) };
        kept.bytes.drain(..over);
        kept.start += over as u64;
        drop(state);
        if taken > 0 {
            self.changed();
        }
        taken
    }

    /// Writes all of it, waiting for room as the program would.
    pub(crate) async fn write_all(&self, handle: i64, stream: OutputStream, mut bytes: &[u8]) {
        let mut changes = self.0.changed.subscribe();
        while !bytes.is_empty() {
            changes.mark_unchanged();
            let taken = self.write(handle, stream, bytes);
            bytes = &bytes[taken..];
            if taken == 0 {
                changes.changed().await.unwrap();
            }
        }
    }

    pub(crate) fn exit(&self, handle: i64, code: i64) {
        self.end(handle, (Some(code), None));
    }

    fn end(&self, handle: i64, how: (Option<i64>, Option<i64>)) {
        if let Some(program) = self.state().by_handle.get_mut(&handle) {
            program.exit.get_or_insert(how);
            program.open = false;
            for stream in program.streams.iter_mut().flatten() {
                stream.eof = true;
            }
        }
        self.changed();
    }

    /// The program reads so much of its input.
    pub(crate) fn read(&self, handle: i64, count: usize) {
        if let Some(program) = self.state().by_handle.get_mut(&handle) {
            program.read = (program.read + count).min(program.input.len());
        }
        self.changed();
    }

    pub(crate) fn input(&self, handle: i64) -> Vec<u8> {
        self.state().by_handle.get(&handle).map(|p| p.input.clone()).unwrap_or_default()
    }

    pub(crate) fn handles(&self) -> Vec<i64> {
        self.state().by_handle.keys().copied().collect()
    }

    pub(crate) fn handle_of(&self, pid: i64) -> i64 {
        let state = self.state();
        *state.by_handle.iter().find(|(_, p)| p.pid == pid).expect("known").0
    }

    pub(crate) fn times(&self, command: &str) -> usize {
        self.state().asked.iter().filter(|asked| **asked == command).count()
    }

    pub(crate) fn signals(&self) -> Vec<(i64, i64)> {
        self.state().signals.clone()
    }

    pub(crate) fn last_start(&self) -> Option<XExecStart> {
        self.state().last_start.clone()
    }

    pub(crate) fn last_exec(&self) -> Option<String> {
        self.state().last_exec.clone()
    }

    pub(crate) fn set_frozen(&self, frozen: bool) {
        self.state().frozen = frozen;
    }

    /// Cuts the connection behind so many more bytes.
    pub(crate) fn cut_after(&self, bytes: usize) {
        self.state().cut = Some(bytes);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.state().cut.is_none()
    }

    /// Another run of the agent, which knows nothing; the connection breaks.
    pub(crate) fn restart(&self) {
        let mut state = self.state();
        state.run += 1;
        state.by_handle.clear();
        state.cut = Some(0);
        drop(state);
        self.changed();
    }

    pub(crate) fn listen(&self, socket: &Path) {
        let listener = UnixListener::bind(socket).unwrap();
        let programs = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = programs.serve(stream).await;
            }
        });
    }

    async fn serve(&self, mut stream: UnixStream) -> std::io::Result<()> {
        let mut server = Server::new();
        let mut buffer = vec![0; 1 << 16];
        let mut changes = self.0.changed.subscribe();
        let mut waits: Vec<(Ticket, XExecWait, Instant)> = Vec::new();
        loop {
            let due = waits.iter().map(|(_, _, until)| *until).min();
            let due = due.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                count = stream.read(&mut buffer) => match count? {
                    0 => return Ok(()),
                    count => server.feed(&buffer[..count]),
                },
                _ = changes.changed() => {}
                () = tokio::time::sleep_until(due.into()) => {}
            }
            while let Some(Job { ticket, info, request }) =
                server.poll(Instant::now(), &mut |_| true)
            {
                self.state().asked.push(info.name);
                if info.name == "x-guest-exec-wait" && !self.state().frozen {
                    match request.arguments::<XExecWait>() {
                        Ok(wait) => {
                            self.acknowledge(&wait);
                            let ms = u64::try_from(wait.wait_ms).unwrap();
                            waits.push((ticket, wait, Instant::now() + Duration::from_millis(ms)));
                        }
                        Err(error) => server.complete(ticket, Outcome::Error(error)),
                    }
                    continue;
                }
                let outcome = self.behave(info.name, info.allowed_while_frozen, &request);
                server.complete(ticket, outcome);
            }
            let now = Instant::now();
            for (ticket, wait, until) in std::mem::take(&mut waits) {
                let ready = self.ready(&wait);
                if ready.is_empty() && until > now {
                    waits.push((ticket, wait, until));
                } else {
                    server.complete(ticket, Outcome::value(&XExecNews { ready }));
                }
            }
            // What was overtaken has an answer by now, and is of no use.
            let keep = waits.len().saturating_sub(4);
            waits.drain(..keep);
            if self.state().cut == Some(0) {
                self.state().cut = None;
                return Ok(());
            }
            while !server.output().is_empty() {
                let most = self.state().cut.unwrap_or(usize::MAX);
                let output = &server.output()[..server.output().len().min(most)];
                let written = stream.write(output).await?;
                server.consume_output(written);
                let mut state = self.state();
                if let Some(cut) = &mut state.cut {
                    *cut -= written;
                    if *cut == 0 {
                        state.cut = None;
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What is known has been read: it makes room.
    fn acknowledge(&self, wait: &XExecWait) {
        let mut state = self.state();
        for known in &wait.programs {
            let Some(program) = state.by_handle.get_mut(&known.handle) else { continue };
            for (stream, at) in program.streams.iter_mut().zip([known.stdout, known.stderr]) {
                let (Some(stream), Some(at)) = (stream, at) else { continue };
                let before = at.clamp(stream.start, stream.end()) - stream.start;
                stream.bytes.drain(..usize::try_from(before).unwrap());
                stream.start += before;
            }
        }
        drop(state);
        self.changed();
    }

    fn ready(&self, wait: &XExecWait) -> Vec<XExecProgram> {
        let state = self.state();
        let mut ready = Vec::new();
        for known in &wait.programs {
            let Some(program) = state.by_handle.get(&known.handle) else { continue };
            let news = |at: Option<u64>, stream: &Option<Stream>| match (at, stream) {
                (Some(at), Some(stream)) => stream.end() > at || stream.eof,
                _ => false,
            };
            let said = program.say(known.handle);
            if news(known.stdout, &program.streams[0])
                || news(known.stderr, &program.streams[1])
                || known.end == Some(true) && said.exited
                || known.stdin == Some(true) && said.stdin.is_none_or(|s| s.room > 0)
            {
                ready.push(said);
            }
        }
        ready
    }
}
