//! `qga-gateway vms`.

mod screen;
mod watch;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::StreamExt as _;
use futures_util::stream::iter;
use http_body_util::{BodyExt as _, Limited};
use hyper::{Method, header};
use qga_gateway::client::{Failure, Gateway, empty, encoded};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::complete;
use super::exit;
use super::out::{Table, ago, print, print_json, say, seconds_ago, text};
use super::reach::Reach;

/// How many guests are asked at once, and for how long one may think.
const AT_ONCE: usize = 32;
const PATIENCE: Duration = Duration::from_secs(5);

/// More than a guest has to say of its name and system.
const LONGEST: usize = 1 << 20;

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
    /// Ask the guests for host name and operating system, in place of what they said to others earlier
    #[arg(long, conflicts_with = "watch")]
    ask: bool,
    /// Go on showing them as they change, until Ctrl-C; with --json a line for each change
    #[arg(short = 'w', long)]
    watch: bool,
    /// Print what the gateway answers instead of a table
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

pub(super) fn run(options: &Options, config: &Path) -> anyhow::Result<ExitCode> {
    let gateway = options.reach.gateway(config)?;
    if options.watch {
        return super::block_on(watch::watch(options, &gateway));
    }
    super::block_on(list(options, &gateway))
}

async fn list(options: &Options, gateway: &Gateway) -> anyhow::Result<ExitCode> {
    let (mut vms, code) = options.chosen(gateway).await?;
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

impl Options {
    /// Those that are asked for; and what is to be exited with if one of them cannot be had.
    async fn chosen(&self, gateway: &Gateway) -> Result<(Vec<Value>, ExitCode), Failure> {
        let mut code = ExitCode::SUCCESS;
        if self.vms.is_empty() {
            let labels = self.label.iter().map(|label| format!("&label={}", encoded(label)));
            let states = self.state.iter().map(|state| format!("&state={state}"));
            let query: String = labels.chain(states).collect();
            return Ok((all(gateway, "vms", &query).await?, code));
        }
        let mut found = Vec::new();
        for id in &self.vms {
            match gateway.get(&format!("/vms/{}", encoded(id))).await {
                Ok(vm) => found.push(vm),
                Err(failure @ Failure::Refused(_)) => {
                    say(&failure.to_string());
                    code = exit::REFUSED.into();
                }
                Err(failure) => return Err(failure),
            }
        }
        Ok((found, code))
    }
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

/// What the guest says of itself, or has said within the hour; what is kept if it does not answer.
async fn asked(gateway: &Gateway, mut vm: Value) -> Value {
    if !matches!(vm["link"]["state"].as_str(), Some("ready" | "frozen")) {
        return vm;
    }
    let id = encoded(vm["id"].as_str().unwrap_or_default());
    let ask = async |what: &str| {
        let request = gateway.request(Method::GET, &format!("/vms/{id}/{what}"));
        let request = request.header(header::CACHE_CONTROL, "max-age=3600");
        let answer = async {
            let answer = gateway.open(request, empty()).await.ok()?;
            let age = answer.headers().get(header::AGE);
            let age = age.and_then(|age| age.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
            let body = Limited::new(answer.into_body(), LONGEST).collect().await.ok()?;
            Some((serde_json::from_slice::<Value>(&body.to_bytes()).ok()?, age))
        };
        timeout(PATIENCE, answer).await.ok()?
    };
    let (name, os) = (ask("hostname").await, ask("os").await);
    let ages = [&name, &os].into_iter().flatten().map(|(_, age)| *age);
    if let Some(age) = ages.max() {
        let name = name.map(|(name, _)| name["host-name"].clone());
        let os = os.and_then(|(os, _)| {
            let names = [&os["pretty-name"], &os["name"], &os["kernel-version"]];
            names.into_iter().find(|name| name.is_string()).cloned()
        });
        vm["guest"] = json!({ "host_name": name, "os": os, "age_seconds": age });
    }
    vm
}

fn table<'a>(vms: impl IntoIterator<Item = &'a Value>) -> Table {
    let head = ["VM", "STATE", "SINCE", "AGENT", "GUEST", "SAID", "FREEZE", "REASON"];
    let mut table = Table::new(&head);
    for vm in vms {
        let (link, guest) = (&vm["link"], &vm["guest"]);
        let names = [&guest["host_name"], &guest["os"]].into_iter().filter_map(Value::as_str);
        let names: Vec<_> = names.collect();
        let names = if names.is_empty() { "-".to_owned() } else { names.join(", ") };
        let reason = link["reason"].as_str().unwrap_or_default().to_owned();
        table.row([
            text(&vm["id"]),
            text(&link["state"]),
            ago(&link["since"]),
            text(&vm["agent"]["version"]),
            names,
            guest["age_seconds"].as_u64().map_or_else(|| "-".into(), seconds_ago),
            text(&vm["freeze"]["id"]),
            reason,
        ]);
    }
    table
}
