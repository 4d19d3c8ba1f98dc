//! Files of a real VM over HTTP, next to a bare client on the same chardev socket, and to a server
//! in the guest that answers as many fixed bytes on another port.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use qga_e2e::{Assets, Gateway, GuestAgent, Target as _, Vm, missing, until};
use tempfile::TempDir;

use crate::file::{Files, Kind};
use crate::round::{Effort, Entry};
use crate::samples::Samples;
use crate::streams::{CHUNK, Mover, start_gateway, wait_ready};
use crate::table::{Cell, Row, Table};
use crate::target::{Bound, Target};

/// In a guest under emulation on a busy machine.
const ANSWER_BOUND: Duration = Duration::from_secs(30);
const TARGET: Target = Target::Ratio(&[(1, Bound::AtLeast(0.8))]);

/// Rates with both agents.
pub(crate) fn table(
    gateway: &Result<PathBuf, String>,
    ours: &Result<PathBuf, String>,
    effort: Effort,
) -> Table {
    let columns = ["bare port", "bare client", "gateway"].map(str::to_owned).into();
    let mut notes = vec![
        "QEMU serves one client at a time: in each round the bare client goes before the gateway \
         is started."
            .to_owned(),
    ];
    let mut rows = Vec::new();
    match prepare(gateway, ours) {
        Ok((assets, gateway, ours)) => {
            notes.push(format!("accelerator: {}", assets.accel()));
            let agents = [("qga-agent", GuestAgent::Ours(ours)), ("qemu-ga", GuestAgent::Stock)];
            for (name, agent) in agents {
                let stock = agent == GuestAgent::Stock;
                let guest = if stock && !effort.vm_stock {
                    notes.push("qemu-ga: left out of a quick run".into());
                    Entry::Skipped
                } else {
                    Entry::from(Guest::boot(&assets, agent, &gateway))
                };
                for (kind, what) in [(Kind::Write, "upload"), (Kind::Read, "download")] {
                    let cells = guest.prepare(|guest| guest.rates(kind, effort));
                    rows.push(Row {
                        name: format!("{what}, {name}"),
                        unit: "MiB/s",
                        cells: spread(cells),
                        target: TARGET,
                    });
                }
            }
        }
        Err(reason) => notes.push(format!("skipped: {reason:#}")),
    }
    Table { title: "Gateway: files of a VM over HTTP".into(), columns, rows, notes }
}

fn prepare(
    gateway: &Result<PathBuf, String>,
    ours: &Result<PathBuf, String>,
) -> Result<(Assets, PathBuf, PathBuf)> {
    if let Some(reason) = missing() {
        anyhow::bail!("{reason}");
    }
    let gateway = gateway.clone().map_err(anyhow::Error::msg)?;
    Ok((Assets::prepare()?, gateway, ours.clone().map_err(anyhow::Error::msg)?))
}

fn spread(cells: Entry<[Samples; 3]>) -> Vec<Cell> {
    match cells {
        Entry::Ready(samples) => samples.map(Cell::Measured).into(),
        Entry::Blank => vec![Cell::Blank; 3],
        Entry::Skipped => vec![Cell::Skipped; 3],
        Entry::Failed(cause) => vec![Cell::Failed(cause); 3],
    }
}

struct Guest {
    // Dropped first: QEMU ends before its directory goes.
    vm: Vm,
    stock: bool,
    gateway: PathBuf,
    dir: TempDir,
}

impl Guest {
    fn boot(assets: &Assets, agent: GuestAgent, gateway: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("qga-bench-vm-").tempdir()?;
        let stock = agent == GuestAgent::Stock;
        let vm = Vm::builder(dir.path()).agent(agent).measured().boot(assets)?;
        let guest = Self { vm, stock, gateway: gateway.to_owned(), dir };
        until("the answer of the agent in the VM", ANSWER_BOUND, || {
            Ok(guest.vm.raw_agent()?.ping().ok())
        })?;
        Ok(guest)
    }

    /// What is uploaded is what is then downloaded; it is in the guest's memory.
    fn rates(&self, kind: Kind, effort: Effort) -> Result<[Samples; 3]> {
        let (size, turn) = (effort.stream_vm * CHUNK, effort.turn);
        let file = |name: &str| format!("/tmp/{name}");
        let bare = |socket: &Path, files| {
            Mover::bare(socket, kind, file("bare").into(), size, self.stock, files)?
                .rate(size, turn)
        };
        let mut gateway: Option<Gateway> = None;
        let mut rates: [Samples; 3] = Default::default();
        for _ in 0..effort.vm_rounds {
            rates[0].push(bare(&self.vm.bare_socket(), Files::None)?);
            // What was on its way to a gateway that is gone is not for the next client.
            self.vm.raw_agent()?.sync()?;
            rates[1].push(bare(&self.vm.qga_socket(), Files::InVm)?);
            let started = match gateway.take() {
                Some(mut gateway) => {
                    gateway.start_again()?;
                    wait_ready(&gateway)?;
                    gateway
                }
                None => start_gateway(&self.gateway, self.dir.path(), &self.vm.qga_socket())?,
            };
            let gateway = gateway.insert(started);
            let mut http = Mover::http(&gateway.socket(), kind, file("http"), size)?;
            // The first opens its way; whether all of it comes is looked at each time.
            ensure!(!http.pass()?.is_zero(), "a clock that stands still");
            rates[2].push(http.rate(size, turn)?);
            gateway.kill();
        }
        Ok(rates)
    }
}
