//! The gateway's process: its configuration, its signals, its deaths.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use qga_e2e::{Gateway, until};
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::oneshot;

use crate::guests::Guests;

/// How much later than the gateway a guest with our agent thaws.
pub(crate) const GUEST_MARGIN: Duration = Duration::from_secs(5);
/// A VM that somebody inside has frozen is thawed after this.
const THAW_AFTER: u64 = 4;
const STOP_BOUND: Duration = Duration::from_secs(40);

/// How a gateway makes place for the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restart {
    /// SIGUSR2: `systemctl restart`, an upgrade.
    HandOver,
    /// SIGKILL.
    Killed,
    /// SIGTERM: it thaws what nobody else would.
    Stopped,
}

/// What the thread of the gateway is told.
#[derive(Debug)]
struct Order {
    /// How it ends.
    end: Restart,
    /// Whether there is another one then.
    again: bool,
    done: oneshot::Sender<Result<()>>,
}

/// The gateway. Its processes end with the thread that starts them, so that is one of its own.
#[derive(Debug)]
pub(crate) struct Host {
    orders: mpsc::Sender<Order>,
    dir: PathBuf,
    socket: PathBuf,
    config: String,
    pid: Arc<AtomicU32>,
    reloads: AtomicU64,
    /// Odd while there is none that answers.
    lives: AtomicU64,
}

impl Host {
    pub(crate) fn start(
        program: &Path,
        dir: PathBuf,
        guests: &Guests,
        length: Duration,
    ) -> Result<Self> {
        let config = config(&dir, guests, length)?;
        let (orders, inbox) = mpsc::channel();
        let (told, started) = mpsc::channel();
        let pid = Arc::new(AtomicU32::new(0));
        let thread = {
            let (program, dir, more) = (program.to_owned(), dir.clone(), config);
            let pid = pid.clone();
            move || {
                let started = Gateway::start_with(&program, &dir, &more, &[]);
                match started {
                    Ok(gateway) => {
                        pid.store(gateway.pid(), Ordering::SeqCst);
                        let _ = told.send(Ok(gateway.socket()));
                        serve(gateway, &pid, &inbox);
                    }
                    Err(error) => _ = told.send(Err(error)),
                }
            }
        };
        std::thread::Builder::new().name("host".into()).spawn(thread)?;
        let socket = started.recv().context("the thread of the gateway has gone")??;
        let config = fs::read_to_string(dir.join("gateway.toml"))?;
        let (reloads, lives) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { orders, dir, socket, config, pid, reloads, lives })
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.load(Ordering::SeqCst)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("gateway.log")).unwrap_or_default()
    }

    /// What the state takes on disk.
    pub(crate) fn state_bytes(&self) -> u64 {
        fs::metadata(self.dir.join("state/state.redb")).map_or(0, |file| file.len())
    }

    /// Even while a gateway answers, and another number after each of its deaths.
    pub(crate) fn life(&self) -> u64 {
        self.lives.load(Ordering::SeqCst)
    }

    /// Another process takes over.
    pub(crate) async fn restart(&self, end: Restart) -> Result<()> {
        self.order(end, true).await?;
        self.lives.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    /// It ends for good, in its own order.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.order(Restart::Stopped, false).await
    }

    async fn order(&self, end: Restart, again: bool) -> Result<()> {
        self.lives.fetch_add(1, Ordering::SeqCst);
        let (done, told) = oneshot::channel();
        self.orders.send(Order { end, again, done }).ok().context("no thread of the gateway")?;
        told.await.context("no thread of the gateway any more")?
    }

    /// SIGHUP: every other time there is one VM more, and the tier of the others is another.
    pub(crate) fn reload(&self) -> Result<()> {
        let number = self.reloads.fetch_add(1, Ordering::SeqCst);
        let mut config = self.config.clone();
        if number.is_multiple_of(2) {
            config = config.replace("tier = \"found\"", "tier = \"found again\"");
            config += &format!("\n[[vm]]\nid = \"extra-{number}\"\nsocket = \"/nowhere/at.all\"\n");
        }
        // In one step: it may be read at any moment.
        let new = self.dir.join("gateway.toml.new");
        fs::write(&new, config)?;
        fs::rename(new, self.dir.join("gateway.toml"))?;
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, Signal::HUP).context("SIGHUP")
    }
}

/// Carries out orders until nobody gives any.
fn serve(mut gateway: Gateway, pid: &AtomicU32, inbox: &mpsc::Receiver<Order>) {
    while let Ok(Order { end, again, done }) = inbox.recv() {
        let mut come_out = || -> Result<()> {
            match end {
                Restart::Killed => gateway.kill(),
                Restart::HandOver => stop(&mut gateway, Signal::USR2)?,
                Restart::Stopped => stop(&mut gateway, Signal::TERM)?,
            }
            if again {
                gateway.start_again()?;
                pid.store(gateway.pid(), Ordering::SeqCst);
            }
            Ok(())
        };
        // Whoever gave the order may have given up.
        let _ = done.send(come_out());
    }
}

fn stop(gateway: &mut Gateway, signal: Signal) -> Result<()> {
    gateway.signal(signal)?;
    let status = until("the gateway's end", STOP_BOUND, || gateway.ended())
        .with_context(|| format!("after {signal:?}"))?;
    if !status.success() {
        bail!("the gateway ended with {status} after {signal:?}");
    }
    Ok(())
}

/// Half of the VMs are named, half are found. It goes on where the table `[listen]` has begun.
fn config(dir: &Path, guests: &Guests, length: Duration) -> Result<String> {
    // Full long before anything is measured: what is kept on purpose must not look like a leak.
    let kept = (length.as_secs() / 2).clamp(200, 2000);
    let (glob, audit) = (dir.join("found-*.sock"), dir.join("audit.jsonl"));
    let outside = format!("external_freeze = \"thaw-after={THAW_AFTER}\"\n");
    let mut text = format!(
        "[telemetry]\nlog = \"warn\"\n\
         [audit]\nfile = {audit:?}\nreads = false\n\
         [limits]\nsync_seconds = 1\nbackoff_max_seconds = 1\norphan_seconds = 4\n\
         connect_wait_seconds = 1\nended_leases = {kept}\nidempotency_keys = {kept}\n\
         events_kept = 1000\nguest_margin_seconds = {}\nreply_cap_bytes = 4194304\n\
         keepalive_seconds = 20\nprocess_results_seconds = 20\nupload_resume_seconds = 20\nanswers_bytes = 1048576\n\
         [timeouts]\nsession_seconds = 1\nfreeze_seconds = 2\nthaw_seconds = 3\n\
         other_seconds = 2\ntrim_seconds = 10\nfile_seconds = 2\n\
         [metrics]\nrefresh_seconds = 60\n\
         [[discover]]\nglob = {glob:?}\nid = \"{{stem}}\"\nlabels = {{ tier = \"found\" }}\n{outside}",
        GUEST_MARGIN.as_secs(),
    );
    for number in (0..guests.count()).filter(|number| guests.is_named(*number)) {
        let (id, machine) = (guests.id(number), guests.machine(number));
        write!(text, "[[vm]]\nid = {id:?}\nsocket = {:?}\n", machine.socket())?;
        text += "labels = { tier = \"named\" }\n";
        if number % 10 == 5 {
            text += "mode = \"on-demand\"\n";
        }
        if Guests::is_outsider(number) {
            text += &outside;
        }
    }
    for (id, socket) in Guests::hostile_sockets(dir) {
        write!(text, "[[vm]]\nid = {id:?}\nsocket = {socket:?}\n")?;
    }
    ensure!(!text.contains("\\\""), "a directory with quotes in its name: {}", dir.display());
    Ok(text)
}
