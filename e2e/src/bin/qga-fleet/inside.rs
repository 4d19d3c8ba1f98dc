//! A gateway in the machine that this program runs in, which is a VM that nobody minds.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use qga_e2e::sim::Machine;
use qga_e2e::{Rest, until};
use serde_json::Value;

/// For anything that takes no time, where everything is emulated.
pub(crate) const BOUND: Duration = Duration::from_secs(120);

/// The gateway, ended with this.
pub(crate) struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        // Both fail only if it has gone.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Starts it with these VMs, and waits until all of them are known.
pub(crate) fn start(
    program: &Path,
    dir: &Path,
    machines: &[(String, Machine)],
) -> Result<(Gateway, Rest)> {
    let socket = dir.join("api.sock");
    let mut config = format!("state_dir = {:?}\n[listen]\nunix = {socket:?}\n", dir.join("state"));
    for (id, machine) in machines {
        let path = machine.socket();
        config += &format!("[[vm]]\nid = {id:?}\nsocket = {path:?}\n");
    }
    let file = dir.join("gateway.toml");
    fs::write(&file, config)?;
    let log = File::create(dir.join("gateway.log"))?;
    let process = Command::new(program)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;
    let gateway = Gateway(process);
    let rest = Rest::new(&socket);
    until("the gateway", BOUND, || {
        Ok(rest.get("/readyz").ok().filter(|reply| reply.status == 200).map(drop))
    })
    .with_context(|| fs::read_to_string(dir.join("gateway.log")).unwrap_or_default())?;
    for (id, _) in machines {
        until("the link", BOUND, || {
            let vm = rest.get(&format!("/vms/{id}"))?.expect(200)?;
            Ok((vm["link"]["state"] == "ready" && !vm["agent"].is_null()).then_some(()))
        })?;
    }
    Ok((gateway, rest))
}

/// The lease once it has ended.
pub(crate) fn ended(rest: &Rest, lease: &Value) -> Result<Value> {
    let id = lease["id"].as_str().context("no id")?;
    until("the lease to end", BOUND, || {
        let lease = rest.get(&format!("/freezes/{id}"))?.expect(200)?;
        Ok((!lease["verdict"].is_null()).then_some(lease))
    })
}

/// Verdict and cause of a freeze that must be called good.
pub(crate) fn good(lease: &Value) -> Result<String> {
    let word = |name: &str| lease[name].as_str().unwrap_or("none").to_owned();
    let (verdict, cause) = (word("verdict"), word("thaw_cause"));
    if !["held", "counts_agree"].contains(&verdict.as_str()) {
        bail!("the verdict is wrong: {lease}");
    }
    Ok(format!("{verdict}, {cause}"))
}

/// A line for the test.
pub(crate) fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}
