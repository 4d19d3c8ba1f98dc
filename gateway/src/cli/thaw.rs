//! `qga-gateway thaw`, `renew` and `freezes`: leases that are there.

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use hyper::Method;
use qga_gateway::client::encoded;
use serde_json::{Value, json};

use super::complete;
use super::exit;
use super::freeze::show::{frozen, is_good, verdict, vms};
use super::out::{Table, ago, print, print_json, say, text, until};
use super::reach::Reach;
use super::seconds::Seconds;

#[derive(Args)]
pub(super) struct Thaw {
    /// Leases (frz_…), or VMs
    #[arg(value_name = "LEASE|VM", required = true, add = complete::leases_and_vms())]
    what: Vec<String>,
    /// Also what is somebody else's, or was frozen past the gateway; needs the right `freeze_force`
    #[arg(long)]
    force: bool,
    /// Print what the gateway answers, a line for each
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args)]
pub(super) struct Renew {
    /// The lease
    #[arg(value_name = "LEASE|VM", add = complete::leases_and_vms())]
    what: String,
    /// How long it holds from now on [default: as when it was made]
    #[arg(long, value_name = "TIME")]
    ttl: Option<Seconds>,
    /// Also if it is somebody else's; needs the right `freeze_force`
    #[arg(long)]
    force: bool,
    /// Print what the gateway answers
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

#[derive(Args)]
pub(super) struct List {
    /// Those that have ended too, as long as they are kept
    #[arg(long)]
    all: bool,
    /// Only those of this VM
    #[arg(long, value_name = "VM", add = complete::vms())]
    vm: Vec<String>,
    /// Only those of this principal, as token:backup
    #[arg(long, value_name = "PRINCIPAL")]
    owner: Vec<String>,
    /// Only those with this note
    #[arg(long, value_name = "TEXT")]
    label: Vec<String>,
    /// Print what the gateway answers instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Where a lease is, by its own name or by its VM's.
fn path(what: &str, force: bool) -> String {
    let force = if force { "?force=true" } else { "" };
    match what.strip_prefix("frz_") {
        Some(_) => format!("/freezes/{}{force}", encoded(what)),
        None => format!("/vms/{}/fsfreeze{force}", encoded(what)),
    }
}

pub(super) fn thaw(options: &Thaw, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    super::block_on(async {
        let mut code = 0;
        for what in &options.what {
            let done = match gateway.insist(Method::DELETE, &path(what, options.force)).await {
                Ok(lease) => {
                    if options.json {
                        print(&format!("{lease}\n"))?;
                    } else {
                        print(&verdict(&lease))?;
                    }
                    if is_good(&lease) { 0 } else { exit::NOT_HELD }
                }
                // The others are to be thawed all the same.
                Err(failure) => {
                    say(&format!("{what}: {failure}"));
                    exit::number(&failure.into())
                }
            };
            // What was not thawed is worse than what did not hold.
            if code == 0 || code == exit::NOT_HELD && done != 0 {
                code = done;
            }
        }
        Ok(code.into())
    })
}

pub(super) fn renew(options: &Renew, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    let body = options.ttl.map_or_else(|| json!({}), |ttl| json!({"ttl_seconds": ttl.0}));
    super::block_on(async {
        let lease = gateway.send(Method::PATCH, &path(&options.what, options.force), &body).await?;
        if options.json {
            print_json(&lease)?;
        } else {
            print(&frozen(&lease))?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn list(options: &List, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    let state = if options.all { String::new() } else { "&state=active".into() };
    let filters = [("vm", &options.vm), ("owner", &options.owner), ("label", &options.label)];
    let query = filters.into_iter().flat_map(|(name, values)| {
        values.iter().map(move |value| format!("&{name}={}", encoded(value)))
    });
    let query = query.fold(state, |query, part| query + &part);
    super::block_on(async {
        let leases = super::vms::all(&gateway, "freezes", &query).await?;
        if options.json {
            print_json(&json!({ "freezes": leases }))?;
        } else {
            print(&table(&leases).text())?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

fn table(leases: &[Value]) -> Table {
    let head = ["LEASE", "STATE", "SINCE", "THAWS IN", "VERDICT", "OWNER", "LABEL", "VMS"];
    let mut table = Table::new(&head);
    for lease in leases {
        table.row([
            text(&lease["id"]),
            text(&lease["state"]),
            ago(&lease["created_at"]),
            until(&lease["expires_at"]).unwrap_or_else(|| "-".into()),
            text(&lease["verdict"]),
            text(&lease["owner"]),
            text(&lease["label"]),
            vms(lease),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    #[test]
    fn leases_and_vms_are_told_apart() {
        assert_eq!(super::path("frz_01", false), "/freezes/frz_01");
        assert_eq!(super::path("web-1", true), "/vms/web-1/fsfreeze?force=true");
    }
}
