//! Completions: what a shell asks of this program while somebody types.

use std::env;
use std::ffi::OsStr;
use std::path::Path;
use std::time::Duration;

use clap_complete::engine::{
    ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter,
};
use qga_gateway::client::encoded;
use qga_gateway::explain;
use serde_json::Value;

use super::reach::Reach;

/// Who types does not wait for longer.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Ids of VMs.
pub(super) fn vms() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let start = current.to_str().unwrap_or_default();
        let vms = known("/vms?limit=10000", "vms", "id");
        let vms = vms.into_iter().filter(|(id, _)| id.starts_with(start));
        vms.map(|(id, vm)| candidate(id, &vm["link"]["state"])).collect()
    })
}

/// Problem codes and link states; the gateway is not asked.
pub(super) fn explained() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let start = current.to_str().unwrap_or_default();
        explain::words().filter(|word| word.starts_with(start)).map(Into::into).collect()
    })
}

/// Leases that are active, and ids of VMs.
pub(super) fn leases_and_vms() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let start = current.to_str().unwrap_or_default();
        let leases = known("/freezes?state=active&limit=1000", "freezes", "id");
        let leases = leases.into_iter().map(|(id, lease)| (id, lease["vm_id"].clone()));
        let vms = known("/vms?limit=10000&state=frozen", "vms", "id");
        let vms = vms.into_iter().map(|(id, vm)| (id, vm["link"]["state"].clone()));
        let both = leases.chain(vms).filter(|(id, _)| id.starts_with(start));
        both.map(|(id, help)| candidate(id, &help)).collect()
    })
}

/// What `cp` takes: paths here, and ids of VMs with a colon behind them.
pub(super) fn places() -> ArgValueCompleter {
    ArgValueCompleter::new(|current: &OsStr| {
        let mut found = PathCompleter::any().complete(current);
        let start = current.to_str().unwrap_or_default();
        if !start.contains(['/', ':']) {
            let vms = known("/vms?limit=10000", "vms", "id");
            let vms = vms.into_iter().filter(|(id, _)| id.starts_with(start));
            found.extend(vms.map(|(id, vm)| candidate(id + ":", &vm["link"]["state"])));
        } else if let Some((vm, path)) = start.split_once(':')
            && let Some((dir, _)) = path.rsplit_once('/')
        {
            let entries = entries(vm, dir);
            found
                .extend(entries.into_iter().filter(|name| name.starts_with(start)).map(Into::into));
        }
        found
    })
}

fn candidate(id: String, help: &Value) -> CompletionCandidate {
    CompletionCandidate::new(id).help(help.as_str().map(|help| help.to_owned().into()))
}

/// What a directory of a guest holds, as it would stand on the command line.
fn entries(vm: &str, dir: &str) -> Vec<String> {
    let path = format!("/vms/{}/files?path={}", encoded(vm), encoded(format!("{dir}/")));
    let answer = ask(&path);
    let entries = answer["entries"].as_array().cloned().unwrap_or_default();
    let full = |entry: &Value| {
        let name = entry["name"].as_str().filter(|name| !name.contains(char::is_control))?;
        let slash = if entry["stat"]["kind"] == "directory" { "/" } else { "" };
        Some(format!("{vm}:{dir}/{name}{slash}"))
    };
    entries.iter().filter_map(full).collect()
}

/// The gateway's list, by the names of its items. Whatever goes wrong, there is nothing to be
/// completed.
fn known(path: &str, list: &str, name: &str) -> Vec<(String, Value)> {
    let mut answer = ask(path);
    let Value::Array(items) = answer[list].take() else { return Vec::new() };
    items.into_iter().filter_map(|item| Some((item[name].as_str()?.to_owned(), item))).collect()
}

fn ask(path: &str) -> Value {
    let words: Vec<_> = env::args().collect();
    let config = words.iter().position(|word| word == "--config");
    let config = config.and_then(|at| words.get(at + 1)).map_or(super::CONFIG, String::as_str);
    let Ok(gateway) = Reach::of(&words).gateway(Path::new(config)) else { return Value::Null };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Value::Null;
    };
    let answer =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, gateway.get(path)).await });
    runtime.shutdown_background();
    answer.ok().and_then(Result::ok).unwrap_or_default()
}
