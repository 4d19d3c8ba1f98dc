//! Random operations and random damage, many times over, under the same checker.
//!
//! The seed of each run is printed when it fails; `QGA_SEED=N` runs that one alone, `QGA_RUNS=N` so
//! many from a seed of the day.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};
use std::{env, thread};

use qga_e2e::Rest;
use qga_e2e::sim::{Act, Commands, Latency, Machine, Mode, Moment, Random, Rule};
use serde_json::json;

use super::bed::{Bed, FREEZE_TIMEOUT, TTL};
use super::check;
use super::orchestrator::Seen;
use crate::fleet::{gateway_program, id};

/// Runs in `make test`.
const RUNS: u64 = 200;
const AT_ONCE: usize = 16;
const MACHINES: usize = 3;
const STEPS: u64 = 14;

#[test]
fn whatever_happens_nothing_is_lost() {
    let Some(program) = gateway_program() else { return };
    let number = |name: &str| env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let first = number("QGA_SEED").unwrap_or_else(|| {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        u64::from(now.subsec_nanos()) << 20
    });
    let alone = if env::var_os("QGA_SEED").is_some() { 1 } else { RUNS };
    let runs = number("QGA_RUNS").unwrap_or(alone);
    println!("{runs} runs from seed {first}");
    let next = AtomicU64::new(0);
    let faults = Mutex::new(Vec::new());
    let ends = Mutex::new(BTreeMap::<String, usize>::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Ordering::Relaxed);
                    if run >= runs {
                        return;
                    }
                    let seed = first.wrapping_add(run);
                    let (wrong, ended) = one_run(&program, seed);
                    for end in ended {
                        *ends.lock().unwrap().entry(end).or_default() += 1;
                    }
                    if let Some(wrong) = wrong {
                        faults.lock().unwrap().push(format!("QGA_SEED={seed}: {wrong}"));
                    }
                }
            });
        }
    });
    println!("leases: {:?}", ends.into_inner().unwrap());
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} of {runs} runs:\n{}", faults.len(), faults.join("\n\n"));
}

/// What was wrong, and how the leases ended.
fn one_run(program: &Path, seed: u64) -> (Option<String>, Vec<String>) {
    let mut random = Random::new(seed);
    let agent = *random.pick(&[Mode::Stock, Mode::Qga]);
    let bed = Bed::start(program, agent, MACHINES, 0, false);
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..STEPS {
            let step = Step::draw(&mut random);
            told.lock().unwrap().push(format!("{step:?}"));
            step.take(scope, &bed, &mut random);
        }
    });
    for machine in &bed.machines {
        machine.clear_rules();
        machine.latency(Commands::Any, Latency::None);
        machine.start_agent();
    }
    let fate = check::fate(&bed, &Seen::default());
    if fate.wrong.is_empty() {
        return (None, fate.ends);
    }
    let steps = told.into_inner().unwrap().join(", ");
    let wrong = fate.wrong.join("\n  ");
    let wrong = format!("{agent:?}: {wrong}\nafter {steps}\nthe gateway's log:\n{}", bed.log());
    (Some(wrong), fate.ends)
}

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    Freeze(usize),
    FreezeGroup { all_or_nothing: bool },
    Renew(usize),
    Thaw(usize),
    KillGateway,
    KillAgent(usize),
    KillQemu(usize),
    Reset(usize),
    HangUp(usize),
    Rule(usize),
    Slow(usize),
    Tear(usize),
    Wait(u64),
}

impl Step {
    fn draw(random: &mut Random) -> Self {
        let machine = usize::try_from(random.below(MACHINES as u64)).unwrap_or(0);
        match random.below(28) {
            0..=6 => Self::Freeze(machine),
            7 | 8 => Self::FreezeGroup { all_or_nothing: random.once_in(2) },
            9 | 10 => Self::Renew(machine),
            11..=14 => Self::Thaw(machine),
            15 | 16 => Self::KillGateway,
            17 => Self::KillAgent(machine),
            18 => Self::KillQemu(machine),
            19 => Self::Reset(machine),
            20 => Self::HangUp(machine),
            21 | 22 => Self::Rule(machine),
            23 => Self::Slow(machine),
            24 => Self::Tear(machine),
            _ => Self::Wait(random.below(800)),
        }
    }

    /// Does it; what goes over HTTP goes on by itself.
    fn take<'scope>(
        self,
        scope: &'scope thread::Scope<'scope, '_>,
        bed: &Bed,
        random: &mut Random,
    ) {
        let vm = |number: usize| id(&bed.machines[number]);
        match self {
            Self::Freeze(number) => {
                let path = format!("/vms/{}/fsfreeze", vm(number));
                let ttl = 1 + random.below(TTL);
                let body = json!({ "ttl_seconds": ttl, "freeze_timeout_seconds": FREEZE_TIMEOUT });
                ask(scope, bed, move |rest| drop(rest.post(&path, &body)));
            }
            Self::FreezeGroup { all_or_nothing } => {
                let vms: Vec<_> = (0..MACHINES).map(vm).collect();
                let body = json!({
                    "vms": vms, "ttl_seconds": TTL, "freeze_timeout_seconds": FREEZE_TIMEOUT,
                    "all_or_nothing": all_or_nothing,
                });
                ask(scope, bed, move |rest| drop(rest.post("/freezes", &body)));
            }
            Self::Renew(number) => {
                let path = format!("/vms/{}/fsfreeze", vm(number));
                ask(scope, bed, move |rest| {
                    drop(rest.patch(&path, &json!({ "ttl_seconds": TTL })));
                });
            }
            Self::Thaw(number) => {
                let path = format!("/vms/{}/fsfreeze", vm(number));
                ask(scope, bed, move |rest| drop(rest.delete(&path)));
            }
            Self::KillGateway => {
                bed.kill_gateway();
                bed.start_gateway();
            }
            Self::Wait(millis) => {
                let until = Instant::now() + Duration::from_millis(millis);
                while Instant::now() < until {
                    thread::park_timeout(until.saturating_duration_since(Instant::now()));
                }
            }
            Self::KillAgent(number)
            | Self::KillQemu(number)
            | Self::Reset(number)
            | Self::HangUp(number)
            | Self::Rule(number)
            | Self::Slow(number)
            | Self::Tear(number) => self.damage(&bed.machines[number], random),
        }
    }

    fn damage(self, machine: &Machine, random: &mut Random) {
        match self {
            Self::KillAgent(_) => {
                machine.kill_agent();
                machine.start_agent();
            }
            Self::KillQemu(_) => {
                machine.kill_qemu(random.once_in(2));
                machine.boot().unwrap();
            }
            Self::Reset(_) => machine.reset(),
            Self::HangUp(_) => machine.hang_up(),
            Self::Rule(_) => {
                let late = Act::Late(Duration::from_millis(random.below(3000)));
                let garbage = Act::Instead(b"{\"return\": [\xFF\xFE\"\n".to_vec());
                let acts = [Act::Lose, Act::Swallow, Act::Repeat, Act::HangUp, garbage, late];
                let commands =
                    [Commands::Any, Commands::Freezes, Commands::Thaws, Commands::Questions];
                machine.rule(Rule {
                    commands: *random.pick(&commands),
                    moment: *random.pick(&[Moment::Received, Moment::Executed]),
                    times: Some(1),
                    act: random.pick(&acts).clone(),
                });
            }
            Self::Slow(_) => {
                let most = Duration::from_millis(random.below(400));
                machine.latency(Commands::Calls, Latency::Uniform(Duration::ZERO, most));
            }
            _ => {
                // Only what is frozen can be torn.
                match (machine.truth().says_frozen, random.once_in(2)) {
                    (true, true) => machine.tear_through_agent(),
                    (true, false) => machine.tear(),
                    (false, _) => {}
                }
            }
        }
    }
}

fn ask<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    bed: &Bed,
    request: impl FnOnce(Rest) + Send + 'scope,
) {
    let rest = bed.rest();
    scope.spawn(move || request(rest));
}
