//! Agents in a real VM: files through a virtio port, next to a bare server on another port of the
//! same VM, and memory around a freeze.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use qga_e2e::{Assets, GuestAgent, Target as _, Vm, missing, until};
use tempfile::TempDir;

use crate::file::{Files, Kind, Transfer};
use crate::footprint::{SETTLE, rest};
use crate::round::{Effort, Entry, interleave};
use crate::samples::Samples;
use crate::table::{Cell, Row, Table};
use crate::target::{Bound, Target};

/// The column of the bare port.
const BARE: usize = 1;
/// What the figures of an emulated guest say, and what not.
const EMULATED: &str = "under emulation what an agent does with the bytes weighs far more than under \
    KVM: vector instructions are emulated one by one, and to decode a chunk's base64 takes about \
    as long as the port";
/// In a guest under emulation on a busy machine.
const ANSWER_BOUND: Duration = Duration::from_secs(30);

/// Figures of qemu-ga, of the bare server's port and of ours. Each agent has a VM of its own, one
/// after the other, so that they do not share the machine's cores; the bare port is in ours.
pub(crate) fn table(ours: &Result<PathBuf, String>, effort: Effort) -> Table {
    let columns = ["qemu-ga", "bare port", "ours"].map(str::to_owned).into();
    let mut notes = Vec::new();
    let mut rows = Vec::new();
    match prepare(ours) {
        Ok((assets, ours)) => {
            notes.push(format!("accelerator: {}", assets.accel()));
            if assets.accel() == "tcg" {
                notes.push(EMULATED.into());
            }
            let stock = if effort.vm_stock {
                Entry::from(Figures::of(&assets, GuestAgent::Stock, effort))
            } else {
                notes.push("qemu-ga: left out of a quick run".into());
                Entry::Skipped
            };
            let ours = Entry::from(Figures::of(&assets, GuestAgent::Ours(ours), effort));
            rows = Figures::rows(&stock, &ours);
        }
        Err(reason) => notes.push(format!("skipped: {reason:#}")),
    }
    notes.push(
        "bare port: a server in the guest that answers the same requests with as many bytes, \
         fixed ones: what the port alone costs"
            .into(),
    );
    Table { title: "Agent: in a VM, through its virtio port".into(), columns, rows, notes }
}

fn prepare(ours: &Result<PathBuf, String>) -> Result<(Assets, PathBuf)> {
    if let Some(reason) = missing() {
        anyhow::bail!("{reason}");
    }
    let ours = ours.clone().map_err(anyhow::Error::msg)?;
    Ok((Assets::prepare()?, ours))
}

/// What was measured in one VM.
struct Figures {
    files: Vec<(String, [Cell; 2])>,
    memory: [f64; 3],
}

impl Figures {
    /// Boots a VM with this agent and measures it.
    fn of(assets: &Assets, agent: GuestAgent, effort: Effort) -> Result<Self> {
        let mut guest = Guest::boot(assets, agent)?;
        let files = guest.files(effort);
        let memory = guest.memory()?;
        Ok(Self { files, memory })
    }

    fn rows(stock: &Entry<Self>, ours: &Entry<Self>) -> Vec<Row> {
        const MEMORY: [(&str, Target); 3] = [
            ("resident, after the files", Target::Open),
            ("resident, while frozen", Target::Open),
            ("resident, two seconds after the thaw", Target::Value(Bound::AtMost(4.0))),
        ];
        let names: Vec<String> = match (ours, stock) {
            (Entry::Ready(figures), _) | (_, Entry::Ready(figures)) => {
                figures.files.iter().map(|(name, _)| name.clone()).collect()
            }
            _ => vec!["file rates".into()],
        };
        let files = names.into_iter().enumerate().map(|(at, name)| {
            let of = |entry: &Entry<Self>, column: usize| {
                cell(entry, |figures| figures.files[at].1[column].clone())
            };
            Row {
                name,
                unit: "MiB/s",
                cells: vec![of(stock, 1), of(ours, 0), of(ours, 1)],
                target: Target::Ratio(&[(BARE, Bound::AtLeast(0.7))]),
            }
        });
        let memory = MEMORY.into_iter().enumerate().map(|(at, (name, target))| {
            let of = |entry: &Entry<Self>| {
                cell(entry, |figures| {
                    let mut samples = Samples::default();
                    samples.push(figures.memory[at]);
                    Cell::Measured(samples)
                })
            };
            let cells = vec![of(stock), Cell::Blank, of(ours)];
            Row { name: name.into(), unit: "MiB", cells, target }
        });
        files.chain(memory).collect()
    }
}

fn cell(entry: &Entry<Figures>, of: impl FnOnce(&Figures) -> Cell) -> Cell {
    match entry {
        Entry::Ready(figures) => of(figures),
        Entry::Blank => Cell::Blank,
        Entry::Skipped => Cell::Skipped,
        Entry::Failed(cause) => Cell::Failed(cause.clone()),
    }
}

struct Guest {
    // Dropped first: QEMU ends before its directory goes.
    vm: Vm,
    _dir: TempDir,
}

impl Guest {
    fn boot(assets: &Assets, agent: GuestAgent) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("qga-bench-vm-").tempdir()?;
        let vm = Vm::builder(dir.path()).agent(agent).measured().boot(assets)?;
        let guest = Self { vm, _dir: dir };
        until("the answer of the agent in the VM", ANSWER_BOUND, || {
            Ok(guest.vm.raw_agent()?.ping().ok())
        })?;
        Ok(guest)
    }

    /// The bare port's rates and the agent's.
    fn files(&self, effort: Effort) -> Vec<(String, [Cell; 2])> {
        let mut rows = Vec::new();
        for chunk in [64 << 10, 1 << 20] {
            // What is written is what is then read.
            for (kind, what) in [(Kind::Write, "write"), (Kind::Read, "read")] {
                let open = |socket: &Path, files| {
                    // In the guest's memory.
                    let file = PathBuf::from(format!("/run/bench-{chunk}"));
                    Entry::from(Transfer::open(socket, kind, file, chunk, effort.vm_file, files))
                };
                let transfers = vec![
                    open(&self.vm.bare_socket(), Files::None),
                    open(&self.vm.qga_socket(), Files::InVm),
                ];
                let [cells] = interleave(effort.vm_rounds, transfers, |transfer| {
                    Ok([transfer.rate(effort.turn)?])
                });
                // There are two contestants.
                if let Ok(cells) = <[Cell; 2]>::try_from(cells) {
                    rows.push((format!("file {what}, {} KiB chunks", chunk >> 10), cells));
                }
            }
        }
        rows.sort_by_key(|(name, _)| name.contains("write"));
        rows
    }

    /// Resident memory in MiB: idle, while frozen, and when it was given back.
    fn memory(&mut self) -> Result<[f64; 3]> {
        rest(SETTLE);
        let idle = self.resident()?;
        let mut agent = self.vm.raw_agent()?;
        agent.ping()?;
        agent.freeze()?;
        let frozen = self.resident();
        // Whatever was the matter, nothing stays frozen.
        agent.thaw()?;
        rest(SETTLE);
        Ok([idle, frozen?, self.resident()?])
    }

    fn resident(&mut self) -> Result<f64> {
        let control = self.vm.control();
        let pid = control.agent_pid()?;
        let line = control.output(&format!("grep VmRSS: /proc/{pid}/status"))?;
        let kib = line.split_whitespace().nth(1).context("no VmRSS")?;
        Ok(kib.parse::<f64>()? / 1024.0)
    }
}
