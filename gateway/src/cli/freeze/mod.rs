//! `qga-gateway freeze`: for a while, or for as long as a command runs.

mod hold;
pub(super) mod show;

use std::ffi::OsString;
use std::path::Path;
use std::pin::pin;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use qga_gateway::client::{Gateway, encoded};
use serde_json::{Map, Value, json};

use self::show::{frozen, preview, verdict};
use super::complete;
use super::exit::{self, Usage};
use super::out::{print, print_json, say, tell};
use super::reach::Reach;
use super::seconds::Seconds;
use super::signals::{self, Signals};

#[derive(Args)]
pub(super) struct Options {
    /// Which VMs; several are frozen together, under one lease
    #[arg(value_name = "VM", add = complete::vms(), required_unless_present = "selector")]
    vms: Vec<String>,
    /// All VMs with this label; if repeated, with all of them
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "vms")]
    selector: Vec<String>,
    /// How long it holds, as in 90, 90s or 5m; then the gateway thaws by itself. With a COMMAND: after
    /// the death of this program, for it renews while it lives [default: the gateway's, 60]
    #[arg(long, value_name = "TIME")]
    ttl: Option<Seconds>,
    /// How long freezing may take [default: the gateway's, 30]
    #[arg(long, value_name = "TIME")]
    freeze_timeout: Option<Seconds>,
    /// required: all filesystems freeze, or none; best-effort: what can
    #[arg(long, value_parser = ["required", "best-effort"])]
    policy: Option<String>,
    /// Freeze this filesystem; may be repeated [default: all]
    #[arg(long = "mountpoint", value_name = "PATH")]
    mountpoints: Vec<String>,
    /// A note for people
    #[arg(long, value_name = "TEXT")]
    label: Option<String>,
    /// Several VMs one after the other, as named; they thaw in the reverse order
    #[arg(long)]
    sequential: bool,
    /// Keep the VMs that froze although another did not
    #[arg(long)]
    keep_going: bool,
    /// Only say what would freeze, and what stands in the way
    #[arg(long, conflicts_with = "command")]
    dry_run: bool,
    /// Print what the gateway answers
    #[arg(long, conflicts_with = "command")]
    json: bool,
    /// Hold the freeze while this runs, and thaw whatever becomes of it; it finds the lease in
    /// `QGA_LEASE`
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn run(options: &Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    super::block_on(freeze(options, &gateway))
}

async fn freeze(options: &Options, gateway: &Gateway) -> anyhow::Result<ExitCode> {
    let (path, body) = request(options)?;
    if options.dry_run {
        return would_freeze(options, gateway, &body).await;
    }
    let mut signals = Signals::catch()?;
    let mut asked = pin!(gateway.post_once(&path, &body));
    let mut told = None;
    let lease = loop {
        tokio::select! {
            lease = &mut asked => break lease?,
            signal = signals.next() => {
                if told.replace(signal).is_some() {
                    say("left before the gateway answered: qga-gateway freezes shows what came of it, \
                         and the end of its time thaws it");
                    return Ok(signals::code(signal).into());
                }
                say("is to end: waits for the freeze, to thaw it; once more leaves it to its time");
            }
        }
    };
    if let Some(signal) = told {
        let thawed = hold::thaw(gateway, &lease).await?;
        print(&verdict(&thawed))?;
        return Ok(signals::code(signal).into());
    }
    if !options.command.is_empty() {
        tell(&frozen(&lease));
        return hold::run(gateway, &lease, &options.command, signals).await;
    }
    if options.json {
        print_json(&lease)?;
    } else {
        print(&frozen(&lease))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Where to, and what: one VM's own freeze, or a group's.
fn request(options: &Options) -> Result<(String, Value), Usage> {
    let mut body = Map::new();
    let mut put = |name: &str, value: Value| drop(body.insert(name.to_owned(), value));
    if let Some(ttl) = options.ttl {
        put("ttl_seconds", ttl.0.into());
    }
    if let Some(timeout) = options.freeze_timeout {
        put("freeze_timeout_seconds", timeout.0.into());
    }
    if let Some(policy) = &options.policy {
        put("policy", policy.replace('-', "_").into());
    }
    if !options.mountpoints.is_empty() {
        put("mountpoints", options.mountpoints.clone().into());
    }
    if let Some(label) = &options.label {
        put("label", label.clone().into());
    }
    if let ([vm], false) = (&options.vms[..], options.dry_run) {
        return Ok((format!("/vms/{}/fsfreeze", encoded(vm)), body.into()));
    }
    if options.sequential {
        put("order", "sequential".into());
    }
    if options.keep_going {
        put("all_or_nothing", false.into());
    }
    if options.selector.is_empty() {
        put("vms", options.vms.clone().into());
    } else {
        let mut labels = Map::new();
        for label in &options.selector {
            let (key, value) = label.split_once('=').ok_or_else(|| {
                Usage(format!("--selector {label}: a key and a value are needed: KEY=VALUE"))
            })?;
            labels.insert(key.to_owned(), value.into());
        }
        put("selector", json!({ "labels": labels }));
    }
    Ok(("/freezes".into(), body.into()))
}

async fn would_freeze(
    options: &Options,
    gateway: &Gateway,
    body: &Value,
) -> anyhow::Result<ExitCode> {
    let answer = gateway.send(Method::POST, "/freezes?dry_run=true", body).await?;
    if options.json {
        print_json(&answer)?;
    } else {
        print(&preview(&answer))?;
    }
    let possible = answer["would_freeze"] == true;
    Ok(if possible { ExitCode::SUCCESS } else { exit::REFUSED.into() })
}
