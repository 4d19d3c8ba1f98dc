//! The life of the process: listen, serve, and on a stop drain within a bound.
//!
//! ```text
//!                +--+ SIGHUP: read the configuration again
//!                v  |
//! listening --> ready --(SIGTERM, SIGINT)--> draining and thawing --> closed
//!                                               |
//!                                               +-- grace over: say what is left, and exit
//! ```

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{self, State};
use crate::audit::{Audit, AuditConfig};
use crate::config::{Config, Listen, SecretFile};
use crate::heap;
use crate::reload::Reloader;
use crate::replies::Replies;
use crate::rights::{Authority, Rules};
use crate::server::{Inherited, Tcp, Tls, Unix, load_token, raise_descriptors, serve};
use crate::store::{HandleLog, StateDir, Store};
use crate::trace::Exporter;
use crate::vm::transfer::close_left_open;
use crate::vm::{Leases, Registry, ShutdownReport, refresh_guests, watch_external};
use crate::watchdog;

/// The signal of a restart: another gateway goes on with all leases.
const HAND_OVER: &str = "SIGUSR2";

/// Of the time for a stop, the part that requests in hand may use.
const DRAIN_SHARE: u32 = 3;

/// How long the disk may take for what has been closed.
const LAST_LINES: Duration = Duration::from_secs(1);

/// How long guests may take to close the files of transfers that a stop has ended.
const LAST_CLOSE: Duration = Duration::from_secs(2);

/// Serves until SIGTERM, SIGINT or SIGUSR2, then drains. The first two thaw what the gateway alone
/// guards, the last leaves all leases to the gateway that is started next. SIGHUP reads `file` again, which `config` is from.
/// An `inherited` socket takes the place of the configured one.
///
/// # Errors
///
/// If a listener or the state directory cannot be had, or the state cannot be read.
pub async fn run(config: Config, file: &Path, inherited: Inherited) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut successor = signal(SignalKind::user_defined2()).context("SIGUSR2")?;
    let stopping = CancellationToken::new();
    let tracker = TaskTracker::new();
    // Before the first of many.
    raise_descriptors(config.all_vms().len());
    let state = StateDir::open(&config.state_dir)?;
    let (handles, left_open) = HandleLog::load(&state);
    let store = Store::open(state)?;
    let authority = authority(&config)?;
    let audit = audit(&config)?;
    let tls = config.listen.tls.as_ref().map(Tls::load).transpose()?;
    let (unix, tcp) = listen(&config.listen, inherited, &authority, tls.clone()).await?;
    let registry = Registry::start(&config);
    registry.settings().keep_handles(handles.clone());
    let leases = Leases::load(&registry, store.clone())?;
    close_left_open(&registry, &left_open);
    tokio::spawn(watch_external(registry.clone(), leases.clone()));
    tokio::spawn(refresh_guests(registry.clone(), leases.clone()));
    tokio::spawn(audit.clone().follow(registry.events().clone()));
    let replies = Replies::load(&registry, store.clone())?;
    let exporter = config.telemetry.otlp_endpoint.clone().map(Exporter::start);
    let front = api::front(State {
        registry: registry.clone(),
        leases: leases.clone(),
        authority: authority.clone(),
        cors: config.cors.clone(),
        audit: audit.clone(),
        replies,
        stopping: stopping.clone(),
        exporter,
    });
    tracker.spawn(serve(unix, front.clone(), tracker.clone(), stopping.clone()));
    if let Some(tcp) = tcp {
        tracker.spawn(serve(tcp, front, tracker.clone(), stopping.clone()));
    }
    notify(&[NotifyState::Ready]);
    tokio::spawn(watchdog::feed(store.clone()));
    tokio::spawn(heap::keep_small());
    let reloader = Reloader::new(file, &config);
    let signal = loop {
        tokio::select! {
            _ = terminate.recv() => break "SIGTERM",
            _ = interrupt.recv() => break "SIGINT",
            _ = successor.recv() => break HAND_OVER,
            Some(()) = hangup.recv() => {
                audit.reopen();
                if let Some(Err(error)) = tls.as_ref().map(Tls::reload) {
                    tracing::error!("the certificates stay as they were: {error}");
                }
                reloader.reload(&registry, &authority).await;
            }
        }
    };
    let grace = registry.limits().shutdown_grace;
    tracing::info!("{signal}: stopping, within {} s", grace.as_secs());
    notify(&[NotifyState::Stopping]);
    stopping.cancel();
    if signal == HAND_OVER {
        leases.hand_over();
        drain(&tracker, None, grace).await;
    } else {
        drain(&tracker, Some(&leases), grace).await;
    }
    registry.end_transfers(LAST_CLOSE).await;
    if let Err(error) = store.flush().await {
        tracing::error!("{error}: the next start takes leases for what they last were on disk");
    }
    registry.close();
    handles.flush(LAST_LINES);
    audit.finish();
    tracing::info!("stopped");
    Ok(())
}

/// Who may do what. The token of the token file is there where anybody can present it.
fn authority(config: &Config) -> anyhow::Result<Authority> {
    let authority = Authority::new(Rules::new(&config.grants, &config.tokens));
    if config.listen.tcp.is_none() {
        return Ok(authority);
    }
    Ok(authority.with_token(&load_token(&config.listen.token_file)?))
}

/// Who did what goes on record. The digests of arguments have a key of this installation's.
fn audit(config: &Config) -> anyhow::Result<Audit> {
    if config.audit == AuditConfig::default() {
        return Ok(Audit::default());
    }
    let key = load_token(&SecretFile::Path(config.state_dir.join("audit.key")))?;
    Audit::start(&config.audit, &key).context("audit")
}

async fn listen(
    listen: &Listen,
    inherited: Inherited,
    authority: &Authority,
    tls: Option<Tls>,
) -> anyhow::Result<(Unix, Option<Tcp>)> {
    let unix = match inherited.into_unix() {
        None => Unix::bind(&listen.unix, authority)?,
        Some(listener) => Unix::inherited(listener, authority)
            .context("the socket that systemd has handed over")?,
    };
    let at = unix.path().unwrap_or_else(|| "a socket without a name".into());
    tracing::info!("listening on {}", at.display());
    if at != listen.unix {
        tracing::warn!(
            "systemd listens on {}, not on listen.unix, {}: one of them is to be changed",
            at.display(),
            listen.unix.display()
        );
    }
    let Some(address) = listen.tcp else { return Ok((unix, None)) };
    let scheme = if tls.is_some() { "https" } else { "http" };
    let tcp = Tcp::bind(address, authority, &listen.allowed_hosts, tls).await?;
    let address = tcp.address()?;
    tracing::info!("listening on {scheme}://{address}, token in {}", listen.token_file);
    Ok((unix, Some(tcp)))
}

/// Lets requests finish, and thaws what is frozen meanwhile: with nobody left to do it at its
/// deadline, a guest would stay frozen.
async fn drain(tracker: &TaskTracker, leases: Option<&Leases>, grace: Duration) {
    tracker.close();
    let requests = timeout_at(Instant::now() + grace / DRAIN_SHARE, tracker.wait());
    let thawed = async {
        match leases {
            Some(leases) => leases.shutdown(grace).await,
            None => ShutdownReport::default(),
        }
    };
    let (requests, report) = tokio::join!(requests, thawed);
    if requests.is_err() {
        tracing::warn!("{} connections or listeners are still busy; going on", tracker.len());
    }
    if report.thawed > 0 {
        tracing::info!("thawed {} frozen VMs", report.thawed);
    }
    for lease in report.left {
        for member in lease.members.iter().filter(|member| !member.ended()) {
            let (vm, id) = (&member.vm, &lease.id);
            tracing::error!(
                vm.id = %vm, lease.id = %id,
                "the grace period is over and VM {vm} may still be frozen (lease {id}); the next \
                 start goes on thawing it"
            );
        }
    }
}

/// Tells systemd, if it started us.
pub(crate) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
