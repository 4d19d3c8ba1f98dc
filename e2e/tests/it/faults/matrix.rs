//! All cases, and the table in `docs/fault-matrix.md`.
//!
//! `QGA_MATRIX=write` adds what this run came to to the table; `QGA_MATRIX=TEXT` runs only the cases
//! whose names contain the text.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{env, fs, thread};

use qga_e2e::sim::Mode;
use qga_testing::{noticed, unavailable};

use super::case::{Case, Fault, Point};
use super::{check, damage};
use crate::fleet::gateway_program;

/// Most of a case is waiting.
const AT_ONCE: usize = 12;

const HEAD: &str = "# Fault matrix

What becomes of a freeze when something breaks, by what breaks and when. Made by a test run (`make
fault-matrix`) with the gateway as a process and simulated guests that know the truth about
themselves. `make test` runs it too. Outcomes that are not in the table it names; it fails if one
promises more than those that are, or names a cause that cannot be.

After every case here the test has found, by the guests' truth: **no guest frozen past its deadline
and margin, no lease lost, nobody else's freeze thawed, no `held` that was not.**

A cell is the lease's verdict and the cause of its thaw, or `no lease` and the problem's code if none
remained; with several, which one depends on what comes first. The orchestrator freezes for two
seconds and, up to *renewal in flight*, leaves the thaw to the lease's time.

A wall clock that jumps by a day or by ten years, forwards or back, moves no deadline and spoils no
verdict: while a lease holds, before a thaw that is asked for, and while a freeze, a renewal, a thaw
or a group's freeze is in flight. A host that is suspended thaws what is overdue when it wakes up, and
nothing else. Only a VM's clock may be set so, and only a VM be put to sleep; the gateway and its
guests run in one for that (`faults::clock`).

`vm_faults` repeats a chosen set with both agents in real VMs, where the guest's kernel is asked
whether it stands still: replies lost and late, an agent that is stopped or killed, a full disk, a
gateway killed and picked up or left dead, a filesystem thawed and frozen again behind the agent, a
reset, QEMU killed, and another, frozen VM at the socket.
";

struct Done {
    case: Case,
    wrong: Vec<String>,
    outcome: String,
}

#[test]
fn after_every_fault_at_every_point_nothing_is_lost() {
    let Some(program) = gateway_program() else { return };
    if !may_unshare() {
        unavailable("no namespaces for a full disk and a suspended host: not root");
        return;
    }
    let told = env::var("QGA_MATRIX").unwrap_or_default();
    let write = told == "write";
    let cases: Vec<Case> = Case::all()
        .into_iter()
        .filter(|case| write || told.is_empty() || format!("{case:?}").contains(&told))
        .collect();
    // Where two things race, one run sees one outcome.
    let rounds = if write { 3 } else { 1 };
    let done: Vec<Done> = (0..rounds).flat_map(|_| run(&program, &cases)).collect();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fault-matrix.md");
    let mut table = Table::read(&file);
    let mut faults = Vec::new();
    for Done { case, wrong, outcome } in &done {
        println!("{case:?}: {outcome}");
        faults.extend(wrong.iter().map(|wrong| format!("{case:?}: {wrong}")));
        // What is wrong is told already, and is no outcome.
        if !wrong.is_empty() {
            continue;
        }
        if let Some(why) = absurd(*case, outcome) {
            faults.push(format!("{case:?}: {outcome:?}: {why}"));
            continue;
        }
        if !table.has(*case, outcome) && !write {
            let said = format!(
                "{case:?}: {outcome:?} is not in {}; look whether it is right, then run \
                 make fault-matrix",
                file.display()
            );
            if promises(outcome) && !table.promises(*case) {
                faults.push(format!("{said}: it promises more than any run before"));
            } else if case.fault == Fault::Nothing && !is_only_load(&program, *case, &table) {
                faults.push(format!("{said}: nothing went wrong, and it came out so twice"));
            } else {
                // Which of two things comes first depends on the machine's load, and that the
                // guests' truth agrees was checked. It ran: this is nothing skipped.
                noticed(&said);
            }
        }
        table.add(*case, outcome);
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    if write {
        fs::write(&file, table.text()).unwrap();
    }
}

fn run(program: &Path, cases: &[Case]) -> Vec<Done> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(cases.len()) {
            // What a case starts ends with the thread that ran it.
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let case = *case;
                    let ran = thread::scope(|scope| {
                        scope
                            .spawn(move || {
                                let (bed, seen) = match damage::run(program, case) {
                                    Ok(ran) => ran,
                                    Err(e) => return failed(case, format!("{e:#}")),
                                };
                                let mut fate = check::fate(&bed, &seen);
                                if !fate.wrong.is_empty() {
                                    fate.wrong.push(format!("the gateway's log:\n{}", bed.log()));
                                }
                                Done { case, wrong: fate.wrong, outcome: fate.outcome }
                            })
                            .join()
                    });
                    let ended = ran.unwrap_or_else(|panic| {
                        let why = panic
                            .downcast_ref::<String>()
                            .map_or("it panicked", String::as_str)
                            .to_owned();
                        failed(case, why)
                    });
                    done.lock().unwrap().push(ended);
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap();
    done.sort_by_key(|done| cases.iter().position(|case| *case == done.case));
    done
}

/// Whether a case comes out as is known when it runs alone.
fn is_only_load(program: &Path, case: Case, table: &Table) -> bool {
    run(program, &[case]).iter().all(|done| done.wrong.is_empty() && table.has(case, &done.outcome))
}

fn failed(case: Case, why: String) -> Done {
    Done { case, wrong: vec![why], outcome: "failed".into() }
}

/// Whether an outcome tells somebody to keep a copy.
fn promises(outcome: &str) -> bool {
    outcome.starts_with("held") || outcome.starts_with("counts_agree")
}

/// Why an outcome is no matter of what comes first, whatever came before.
fn absurd(case: Case, outcome: &str) -> Option<&'static str> {
    if case.agent == Mode::Stock && outcome.starts_with("held") {
        Some("a stock agent cannot show that")
    } else if outcome.ends_with(", requested") && !case.point.thaws() {
        Some("nobody asked for a thaw")
    } else if outcome.split(", ").any(|word| word == "none") {
        Some("it is over, and does not say how")
    } else {
        None
    }
}

/// Whether this process may make mount and time namespaces.
pub(crate) fn may_unshare() -> bool {
    let tried = std::process::Command::new("unshare")
        .args(["--mount", "--time", "--boottime", "1", "true"])
        .output();
    tried.is_ok_and(|tried| tried.status.success())
}

/// The outcomes of each case.
struct Table(Vec<(Case, BTreeSet<String>)>);

impl Table {
    fn read(file: &PathBuf) -> Self {
        let text = fs::read_to_string(file).unwrap_or_default();
        let mut table = Self(Case::all().into_iter().map(|case| (case, BTreeSet::new())).collect());
        let mut agent = Mode::Stock;
        for line in text.lines() {
            if line.starts_with("## ") {
                agent = if line.contains("qga-agent") { Mode::Qga } else { Mode::Stock };
            }
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let named = cells
                .get(1)
                .and_then(|name| Fault::ALL.into_iter().find(|fault| fault.title() == *name));
            let Some(fault) = named else { continue };
            for (point, cell) in Point::ALL.into_iter().zip(&cells[2..]) {
                for outcome in cell.split("<br>").filter(|outcome| *outcome != "–") {
                    table.add(Case { agent, point, fault }, outcome);
                }
            }
        }
        table
    }

    fn has(&self, case: Case, outcome: &str) -> bool {
        self.0.iter().any(|(other, outcomes)| *other == case && outcomes.contains(outcome))
    }

    /// Whether any outcome that is known of the case promises anything.
    fn promises(&self, case: Case) -> bool {
        let known = self.0.iter().find(|(other, _)| *other == case);
        known.is_some_and(|(_, known)| known.iter().any(|outcome| promises(outcome)))
    }

    fn add(&mut self, case: Case, outcome: &str) {
        if let Some((_, outcomes)) = self.0.iter_mut().find(|(other, _)| *other == case) {
            outcomes.insert(outcome.to_owned());
        }
    }

    fn text(&self) -> String {
        let mut text = HEAD.to_owned();
        for (agent, title) in [(Mode::Stock, "With a stock qemu-ga"), (Mode::Qga, "With qga-agent")]
        {
            text += &format!("\n## {title}\n\n| |");
            for point in Point::ALL {
                text += &format!(" {} |", point.title());
            }
            text += &format!("\n|---|{}\n", "---|".repeat(Point::ALL.len()));
            for fault in Fault::ALL {
                text += &format!("| {} |", fault.title());
                for point in Point::ALL {
                    let case = Case { agent, point, fault };
                    let found = self.0.iter().find(|(other, _)| *other == case);
                    let outcomes: Vec<&str> =
                        found.iter().flat_map(|(_, all)| all).map(String::as_str).collect();
                    let cell =
                        if outcomes.is_empty() { "–".into() } else { outcomes.join("<br>") };
                    text += &format!(" {cell} |");
                }
                text += "\n";
            }
        }
        text
    }
}
