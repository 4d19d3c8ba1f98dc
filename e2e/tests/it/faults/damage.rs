//! Brings a case to its point, does the damage there, and lets everything go on.

use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use qga_e2e::sim::{Act, Commands, Machine, Mode, Moment, Stop};
use qga_e2e::until;

use super::bed::Bed;
use super::case::{Case, Fault, Point};
use super::orchestrator::{Orchestrator, Seen};
use crate::fleet::{SOON, id};

/// Later than any command may take here.
const LATE: Duration = Duration::from_secs(4);

/// Until a command must have come.
const REACHED: Duration = Duration::from_secs(10);

/// Runs a case up to where nothing more is done to it.
///
/// # Errors
/// It did not come to its point.
pub(super) fn run(program: &Path, case: Case) -> anyhow::Result<(Bed, Seen)> {
    let (machines, broken) = match case.point {
        Point::GroupHalfWay => (3, 0),
        Point::RollingBack => (3, 1),
        _ => (1, 0),
    };
    let bed = Bed::start(program, case.agent, machines, broken, case.fault == Fault::DiskFull);
    let seen = thread::scope(|scope| {
        let early = case.fault == Fault::DiskFull && case.point == Point::BeforeFreeze;
        if early {
            bed.fill_disk();
        }
        let stop = (!early).then(|| stop(&bed, case)).flatten();
        let orchestrator = Orchestrator::start(scope, &bed, case);
        if matches!(case.point, Point::Held | Point::RenewInFlight) || case.point.thaws() {
            orchestrator.wait_held();
            if case.point != Point::Held {
                orchestrator.go_on();
            }
        }
        if let Some(stop) = &stop {
            stop.reached(REACHED).with_context(|| format!("the gateway's log:\n{}", bed.log()))?;
        }
        if case.point == Point::GroupHalfWay {
            let first = &bed.machines[0];
            first.until("the first to freeze", SOON, |truth| truth.frozen.clone())?;
        }
        if !early {
            damage(&bed, case, stop);
        }
        anyhow::Ok(orchestrator.join())
    })?;
    Ok((bed, seen))
}

/// The command at whose hold the damage is done.
fn stop(bed: &Bed, case: Case) -> Option<Stop> {
    let (machine, commands, moment) = match case.point {
        Point::BeforeFreeze => (0, Commands::Questions, Moment::Received),
        Point::FreezeInFlight => (0, Commands::Freezes, Moment::Received),
        Point::FrozenUnanswered => (0, Commands::Freezes, Moment::Executed),
        Point::Held => return None,
        Point::RenewInFlight if case.agent == Mode::Stock => return None,
        Point::RenewInFlight => (0, Commands::Named("x-guest-fsfreeze-renew"), Moment::Received),
        Point::ThawInFlight | Point::RollingBack => (0, Commands::Thaws, Moment::Received),
        Point::ThawedUnanswered => (0, Commands::Thaws, Moment::Executed),
        Point::GroupHalfWay => (1, Commands::Freezes, Moment::Received),
    };
    Some(bed.machines[machine].stop_at(commands, moment))
}

/// The machine that the damage is done to.
fn victim(bed: &Bed, case: Case) -> (usize, &Machine) {
    let number = usize::from(case.point == Point::GroupHalfWay);
    (number, &bed.machines[number])
}

fn damage(bed: &Bed, case: Case, stop: Option<Stop>) {
    let (number, machine) = victim(bed, case);
    let release = |act| {
        if let Some(stop) = stop {
            stop.release(act);
        }
    };
    match case.fault {
        Fault::Nothing => release(Act::Pass),
        Fault::GatewayKilled => {
            bed.kill_gateway();
            release(Act::Pass);
            bed.start_gateway();
        }
        Fault::HostSuspended => {
            bed.kill_gateway();
            release(Act::Pass);
            bed.start_gateway_an_hour_later();
        }
        Fault::AgentKilled => {
            machine.kill_agent();
            release(Act::Pass);
            machine.start_agent();
        }
        Fault::QemuKilled => {
            machine.kill_qemu(true);
            release(Act::Pass);
            wait_gone(bed, machine);
            machine.boot().unwrap();
        }
        Fault::GuestReset => {
            machine.reset();
            release(Act::Pass);
        }
        Fault::DiskFull => {
            bed.fill_disk();
            release(Act::Pass);
        }
        Fault::SocketReplaced => {
            bed.replace(number);
            release(Act::Pass);
        }
        Fault::ReplyLost => release(Act::Lose),
        Fault::ReplyLate => release(Act::Late(LATE)),
    }
}

/// Until the gateway has seen that the VM is gone.
fn wait_gone(bed: &Bed, machine: &Machine) {
    let path = format!("/vms/{}", id(machine));
    until(format_args!("{path} to be gone"), SOON, || {
        let vm = bed.rest().get(&path)?.expect(200)?;
        Ok((vm["link"]["state"] == "absent").then_some(()))
    })
    .unwrap();
}
