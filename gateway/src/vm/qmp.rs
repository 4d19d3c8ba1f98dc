//! What QEMU itself tells of a VM, where the configuration names a QMP socket.
//!
//! ```text
//!   connect --> greeting --> qmp_capabilities --> query-status, query-chardev --> events
//!      ^                                                                            |
//!      +--- a pause, until: backoff over, or the VM's agent socket was connected ---+ lost
//! ```
//!
//! QMP only adds: a VM stops being `ready` the moment that its guest closes the port, a paused VM
//! is told from a dead agent, and a reset spoils a verdict even if nothing on the agent's port
//! shows it. Nothing waits for it, and while it is not to be had the link is judged as if it had
//! never been configured. A QMP socket serves one client, so this one wants a monitor of its own.

mod wire;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use self::wire::{Ask, Event, Lines, Message};
use super::buffer::with_buffer;
use super::events::EventKind;
use super::handle::Vm;
use super::signs::Sign;
use super::socket;
use super::surplus::Surplus;

/// How long QEMU may take for its greeting and for each answer. It answers from its main loop,
/// within a millisecond unless that hangs.
const PATIENCE: Duration = Duration::from_secs(5);

/// A connection that lasted this long was a good one.
const STEADY: Duration = Duration::from_secs(5);

/// A VM's QMP socket.
#[derive(Debug)]
pub(super) struct Monitor {
    socket: Mutex<Arc<Path>>,
    /// Worth another try at once, or the VM is closed.
    nudge: Notify,
}

impl Monitor {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket: Mutex::new(socket.into()), nudge: Notify::new() }
    }

    fn socket(&self) -> Arc<Path> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The socket is there from now on. Returns whether it was elsewhere.
    pub(super) fn move_to(&self, socket: &Path) -> bool {
        let mut here = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let moved = **here != *socket;
        if moved {
            *here = socket.into();
            self.nudge();
        }
        moved
    }

    /// The VM's QEMU has just been seen to live, or the VM is closed.
    pub(super) fn nudge(&self) {
        self.nudge.notify_one();
    }
}

/// Follows a VM's QMP until its handle is closed.
pub(super) async fn run(vm: Arc<Vm>) {
    let Some(monitor) = &vm.qmp else { return };
    let mut pause = Duration::ZERO;
    let mut told = String::new();
    while !vm.is_closed() {
        let tried = Instant::now();
        let at = monitor.socket();
        let limits = vm.settings.limits();
        let reason = match socket::connect(&at, &vm.owners) {
            Ok(connection) => {
                let mut session = Session::new(&vm, &at, connection.stream);
                // Boxed, so that a VM whose monitor is lost does not pay for a connection.
                let end = Box::pin(session.run(monitor)).await;
                vm.resume();
                vm.tell(Sign::PortUnknown);
                match end {
                    Ok(()) => return,
                    Err(e) => e.to_string(),
                }
            }
            Err(e) => e.to_string(),
        };
        // Once, not at every attempt.
        if reason != told {
            tracing::info!(
                vm.id = %vm.id,
                "{}: QMP is not to be had at {}: {reason}", vm.id, at.display()
            );
            told = reason;
        }
        if tried.elapsed() >= STEADY {
            pause = Duration::ZERO;
        }
        pause = (pause * 2).clamp(limits.backoff_min, limits.backoff_max);
        // A VM that starts makes both sockets, in whichever order.
        let _ = timeout(pause, monitor.nudge.notified()).await;
        if let Some(soonest) = limits.backoff_min.checked_sub(tried.elapsed()) {
            tokio::time::sleep(soonest).await;
        }
    }
}

/// One connection.
struct Session<'a> {
    vm: &'a Vm,
    at: &'a Path,
    stream: UnixStream,
    lines: Lines,
    surplus: Surplus,
    /// What has been asked and not been answered, and until when it may take.
    asked: Option<(Ask, Instant)>,
    wants_status: bool,
    wants_port: bool,
    /// The guest's port as it was last told of.
    port: Option<bool>,
}

impl<'a> Session<'a> {
    fn new(vm: &'a Vm, at: &'a Path, stream: UnixStream) -> Self {
        Self {
            vm,
            at,
            stream,
            lines: Lines::default(),
            surplus: Surplus::new(Instant::now()),
            asked: None,
            wants_status: true,
            wants_port: true,
            port: None,
        }
    }

    /// Serves until the connection ends, or the VM is closed.
    async fn run(&mut self, monitor: &Monitor) -> io::Result<()> {
        self.asked = Some((Ask::Greeting, Instant::now() + PATIENCE));
        loop {
            while let Some(message) = self.lines.next()? {
                self.take(message).await?;
            }
            if let Some(reason) = self.surplus.verdict() {
                return Err(io::Error::other(reason));
            }
            if self.asked.is_none() {
                if std::mem::take(&mut self.wants_status) {
                    self.ask(Ask::Status).await?;
                } else if std::mem::take(&mut self.wants_port) {
                    self.ask(Ask::Chardevs).await?;
                }
            }
            tokio::select! {
                read = self.read() => read?,
                () = monitor.nudge.notified() => {
                    if self.vm.is_closed() {
                        return Ok(());
                    }
                    if *monitor.socket() != *self.at {
                        return Err(io::Error::other("the socket is another one now"));
                    }
                }
            }
        }
    }

    async fn read(&mut self) -> io::Result<()> {
        match &self.asked {
            None => self.stream.readable().await?,
            Some((ask, until)) => match timeout_at(*until, self.stream.readable()).await {
                Ok(ready) => ready?,
                Err(_) => {
                    let what = match ask {
                        Ask::Greeting => {
                            "no greeting: does another client hold it, or is it no QMP socket?"
                        }
                        _ => "QEMU does not answer",
                    };
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
            },
        }
        let read = with_buffer(|buffer| {
            let read = self.stream.try_read(buffer);
            self.lines.feed(&buffer[..*read.as_ref().unwrap_or(&0)]);
            read
        });
        match read {
            Ok(0) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "QEMU hung up")),
            Ok(n) => {
                self.surplus.add(n);
                Ok(())
            }
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    async fn ask(&mut self, ask: Ask) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        self.asked = Some((ask, until));
        let write = self.stream.write_all(ask.request());
        timeout_at(until, write).await.unwrap_or_else(|_| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "QEMU does not read what it is asked"))
        })
    }

    async fn take(&mut self, message: Message) -> io::Result<()> {
        match message {
            Message::Event(event) => self.event(event),
            Message::Greeting if matches!(self.asked, Some((Ask::Greeting, _))) => {
                self.ask(Ask::Capabilities).await?;
            }
            Message::Answer(answer) => match self.asked.take() {
                Some((Ask::Status, _)) => {
                    if let Some(run) = answer.as_deref().and_then(wire::run_state) {
                        self.runs(run);
                    }
                }
                Some((Ask::Chardevs, _)) => {
                    let port = answer.and_then(|json| wire::port_open(&json, &self.vm.socket()));
                    self.port_is(port);
                }
                Some((Ask::Capabilities, _)) if answer.is_none() => {
                    return Err(io::Error::other("QEMU refuses to leave QMP's negotiation"));
                }
                Some((ask @ Ask::Greeting, until)) => self.asked = Some((ask, until)),
                Some((Ask::Capabilities, _)) | None => {}
            },
            Message::Greeting | Message::Other => {}
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Stop => {
                self.runs(Some("QEMU has stopped its CPUs".into()));
                self.wants_status = true;
            }
            Event::Resume => self.runs(None),
            // Which port it is, the event says by the name of its device; whether it is ours, the
            // list of character devices says by their paths.
            Event::Port => self.wants_port = true,
            Event::Reset => self.gone(Sign::Reset, EventKind::VmReset),
            Event::Shutdown => self.gone(Sign::Shutdown, EventKind::VmShutdown),
            Event::Panicked => self.gone(Sign::Panicked, EventKind::VmPanicked),
        }
    }

    fn gone(&mut self, sign: Sign, kind: EventKind) {
        self.vm.upset(kind, sign.text());
        self.vm.tell(sign);
        self.wants_status = true;
        self.wants_port = true;
    }

    /// `None`: the guest's CPUs run; else why they do not.
    fn runs(&self, stopped: Option<String>) {
        match stopped {
            None => self.vm.resume(),
            Some(why) => self.vm.pause(why),
        }
    }

    fn port_is(&mut self, port: Option<bool>) {
        if port != self.port {
            self.port = port;
            self.vm.tell(match port {
                Some(true) => Sign::PortOpened,
                Some(false) => Sign::PortClosed,
                None => Sign::PortUnknown,
            });
        }
    }
}
