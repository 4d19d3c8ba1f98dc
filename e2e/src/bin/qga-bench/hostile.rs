//! What hostile guests cost the others: without any, with some that the machine has and the gateway
//! has not, and with the same ones behind the gateway.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use qga_e2e::sim::{self, Attack, Blueprint, Fleet, Mode};
use qga_e2e::{Gateway, Process, until};
use serde_json::json;

use crate::fleet::{BOUND, Scale, each, memory, processor, real, start, vms, wait_ready};
use crate::footprint::rest;
use crate::samples::{Samples, quantile};

pub(crate) const NOTE: &str = "Hostile guests are a process of their own that gets a processor only \
    when nobody else wants it (SCHED_IDLE). Elsewhere: at a sink that takes what they send, as much \
    of it and as often as the gateway does, and looks at its line ends only.";

/// Pings to each good machine in a turn.
const PINGS: usize = 20;

/// The p99 without hostile guests, with them elsewhere, by that without; with them behind the
/// gateway, by that elsewhere; and what they cost the gateway: in percent of a core when they begin
/// and from then on, and in MiB.
pub(crate) fn figures(program: &Path, dir: &Path, scale: Scale) -> Result<[Samples; 8]> {
    let elsewhere = dir.join("elsewhere");
    fs::create_dir_all(&elsewhere)?;
    let fleet = Fleet::new(dir)?;
    let machines = fleet.machines(0, scale.group, &Blueprint::new(Mode::Stock))?;
    let mut all = vms(&machines);
    all.extend((0..Attack::ALL.len()).map(|n| (id(n), dir.join(format!("{}.sock", id(n))))));
    let gateway = start(program, dir, &all)?;
    wait_ready(&gateway.rest(), scale.group)?;
    turn(&gateway, scale)?;
    let mut figures: [Samples; 8] = Default::default();
    let before = memory(&gateway)?;
    let mut after = before;
    for _ in 0..scale.rounds {
        let calm = turn(&gateway, scale)?;
        let beside = {
            let _guests = idle_process("hostile", &elsewhere, "hostile guests in")?;
            let _sink = idle_process("sink", &elsewhere, "")?;
            turn(&gateway, scale)?
        };
        let (attacked, later, asking) = {
            let _guests = idle_process("hostile", dir, "hostile guests in")?;
            let asking = ask(&gateway);
            until("the gateway to see them", BOUND, || {
                let path = format!("/vms/{}", id(1));
                let vm = gateway.rest().get(&path)?.expect(200)?;
                let gone = vm["link"]["state"] == "absent" || vm["link"]["state"] == "refused";
                Ok((!gone).then_some(()))
            })?;
            let attacked = turn(&gateway, scale)?;
            let (begun, spent) = (Instant::now(), processor(&gateway)?);
            rest(scale.watch);
            let spent = processor(&gateway)?.saturating_sub(spent);
            after = after.max(memory(&gateway)?);
            (attacked, spent.div_duration_f64(begun.elapsed()), asking)
        };
        for asked in asking {
            // How it is answered is a test's matter.
            drop(asked.join());
        }
        let values = [
            calm.p99,
            beside.p99,
            beside.p99 / calm.p99,
            attacked.p99,
            attacked.p99 / beside.p99,
            // What a ping costs it is known from the turn without them.
            (attacked.processor - calm.processor).max(0.0) / attacked.took * 100.0,
            later * 100.0,
        ];
        figures.iter_mut().zip(values).for_each(|(figure, value)| figure.push(value));
    }
    figures[7].push(real(after.saturating_sub(before)) / f64::from(1 << 20));
    Ok(figures)
}

fn id(number: usize) -> String {
    format!("hostile-{number}")
}

/// A program of hostile guests' that runs only when nobody else wants to.
fn idle_process(role: &str, dir: &Path, says: &str) -> Result<Process> {
    let program = std::env::current_exe()?.with_file_name("qga-fleet");
    ensure!(program.is_file(), "no {}; build qga-e2e's programs", program.display());
    let log = dir.join(format!("{role}.log"));
    // It is appended to.
    drop(fs::remove_file(&log));
    // chrt execs, so the pid stays.
    let mut args: Vec<PathBuf> = ["--idle", "0"].map(PathBuf::from).into();
    args.extend([program, role.into(), dir.to_owned()]);
    let process = Process::spawn(Path::new("chrt"), args, &log)?;
    until(format_args!("the {role} to begin"), BOUND, || {
        Ok(fs::read_to_string(&log)?.contains(says).then_some(()))
    })
    .with_context(|| fs::read_to_string(&log).unwrap_or_default())?;
    Ok(process)
}

/// Most attack only whoever asks them something.
fn ask(gateway: &Gateway) -> Vec<JoinHandle<()>> {
    (0..Attack::ALL.len())
        .map(|number| {
            let (rest, path) = (gateway.rest(), format!("/vms/{}/ping", id(number)));
            thread::spawn(move || drop(rest.post(&path, &json!({}))))
        })
        .collect()
}

/// What pings to all good machines in turn came to.
struct Turn {
    /// In µs.
    p99: f64,
    /// Of the gateway, and how long all took, in seconds.
    processor: f64,
    took: f64,
}

fn turn(gateway: &Gateway, scale: Scale) -> Result<Turn> {
    let (begun, before) = (Instant::now(), processor(gateway)?);
    // Long enough that the first moment of an attack is not all that is seen.
    let mut micros = each(&gateway.socket(), PINGS * scale.group, |link, number| {
        let path = format!("/vms/{}/ping", sim::name(number % scale.group));
        let begun = Instant::now();
        let (status, _) = link.request("POST", &path, "")?;
        ensure!(status == 200, "{path}: {status}");
        Ok(begun.elapsed().as_secs_f64() * 1e6)
    })?;
    let took = begun.elapsed();
    let spent: Duration = processor(gateway)?.saturating_sub(before);
    micros.sort_by(f64::total_cmp);
    let p99 = quantile(&micros, 0.99);
    Ok(Turn { p99, processor: spent.as_secs_f64(), took: took.as_secs_f64() })
}
