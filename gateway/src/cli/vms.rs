//! `qga-gateway vms`.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use hyper::{Method, header};
use qga_gateway::client::{Failure, Gateway, empty, encoded};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::complete;
use super::exit;
use super::out::{Table, ago, print, print_json, say, text};
use super::reach::Reach;

/// How many guests are asked at once, and for how long one may think.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(super) struct Options {
    /// These alone
    #[arg(value_name = "VM", add = complete::vms(), conflicts_with_all = ["label", "state"])]
    vms: Vec<String>,
    /// Only those with this label; if repeated, with all of them
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Only those whose link is in this state; if repeated, in one of them
    #[arg(long, value_parser = ["absent", "refused", "busy", "silent", "ready", "frozen", "paused"])]
    state: Vec<String>,
    /// Ask the guests that answer for their host name and operating system
    #[arg(long)]
    ask: bool,
    /// Print what the gateway answers instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn run(options: &Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    super::block_on(list(options, &gateway))
}

async fn list(options: &Options, gateway: &Gateway) -> anyhow::Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    let mut vms = if options.vms.is_empty() {
        let labels = options.label.iter().map(|label| format!("&label={}", encoded(label)));
        let states = options.state.iter().map(|state| format!("&state={state}"));
        all(gateway, "vms", &labels.chain(states).collect::<String>()).await?
    } else {
        let mut found = Vec::new();
        for id in &options.vms {
            match gateway.get(&format!("/vms/{}", encoded(id))).await {
                Ok(vm) => found.push(vm),
                Err(failure @ Failure::Refused(_)) => {
                    say(&failure.to_string());
                    code = exit::REFUSED.into();
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        found
    };
    if options.ask {
        vms = iter(vms).map(|vm| asked(gateway, vm)).buffered(AT_ONCE).collect().await;
    }
    if options.json {
        print_json(&json!({ "vms": vms }))?;
    } else {
        print(&table(&vms).text())?;
    }
    Ok(code)
}

/// A whole list, page by page.
pub(super) async fn all(gateway: &Gateway, list: &str, query: &str) -> Result<Vec<Value>, Failure> {
    let mut found = Vec::new();
    let mut after = String::new();
    loop {
        let mut page = gateway.get(&format!("/{list}?limit=1000{query}{after}")).await?;
        if let Value::Array(items) = page[list].take() {
            found.extend(items);
        }
        match page["next"].as_str() {
            Some(next) => after = format!("&after={}", encoded(next)),
            None => return Ok(found),
        }
    }
}

/// What the guest says of itself, or has said within the hour; nothing if it does not answer.
async fn asked(gateway: &Gateway, mut vm: Value) -> Value {
    if !matches!(vm["link"]["state"].as_str(), Some("ready" | "frozen")) {
        return vm;
    }
    let id = encoded(vm["id"].as_str().unwrap_or_default());
    let ask = async |what: &str| {
        let request = gateway.request(Method::GET, &format!("/vms/{id}/{what}"));
        let request = request.header(header::CACHE_CONTROL, "max-age=3600");
        timeout(PATIENCE, gateway.ask(request, empty())).await.ok()?.ok()
    };
    if let Some(name) = ask("hostname").await {
        vm["hostname"] = name["host-name"].clone();
    }
    if let Some(os) = ask("os").await {
        vm["os"] = os;
    }
    vm
}

fn table(vms: &[Value]) -> Table {
    let mut table = Table::new(&["VM", "STATE", "SINCE", "AGENT", "GUEST", "FREEZE", "REASON"]);
    for vm in vms {
        let link = &vm["link"];
        let os = [&vm["os"]["pretty-name"], &vm["os"]["name"], &vm["os"]["kernel-version"]];
        let os = os.into_iter().find_map(Value::as_str);
        let guest: Vec<_> = vm["hostname"].as_str().into_iter().chain(os).collect();
        let guest = if guest.is_empty() { "-".to_owned() } else { guest.join(", ") };
        let reason = link["reason"].as_str().unwrap_or_default().to_owned();
        table.row([
            text(&vm["id"]),
            text(&link["state"]),
            ago(&link["since"]),
            text(&vm["agent"]["version"]),
            guest,
            text(&vm["freeze"]["id"]),
            reason,
        ]);
    }
    table
}
