//! The demo: a real VM frozen and thawed over HTTP, then left to play with until Ctrl-C.
//!
//! Run it by `scripts/demo`, which installs and builds what it needs.

mod demo;
mod paste;
mod place;
mod show;
mod stop;
mod writers;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use qga_e2e::Assets;

use crate::demo::Demo;
use crate::show::{plain, say, step};
use crate::stop::Stop;

/// Between two looks at a VM that is left to play with.
const TICK: Duration = Duration::from_millis(400);

/// Looks in a row that must agree before writers count as frozen: emulated disks may be slow.
const STEADY: u32 = 3;

/// A real VM, frozen and thawed over HTTP.
#[derive(Debug, Parser)]
struct Options {
    /// Instead of staying up, run the printed curl lines, end, and verify that nothing is left.
    #[arg(long)]
    check: bool,
    /// Boot the VM with Debian's qemu-ga instead of qga-agent.
    #[arg(long)]
    stock: bool,
}

/// Why a step failed, and what its reader can do about it.
#[derive(Debug)]
struct Failure {
    error: anyhow::Error,
    advice: &'static str,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let (mut stop, dir) = match Stop::listen().and_then(|stop| Ok((stop, place::make()?))) {
        Ok(made) => made,
        Err(error) => {
            failed(&Failure { error, advice: "see the message above" });
            return ExitCode::FAILURE;
        }
    };
    let played = play(&options, &mut stop, dir.path());
    // A failure may be a signal's first effect, noticed before the signal itself.
    let told = stop.pause(if played.is_err() { TICK } else { Duration::ZERO });
    if let (Err(failure), false) = (&played, told) {
        failed(failure);
    }
    let path = dir.path().to_owned();
    let removed = dir.close();
    let left = place::leftovers(&path);
    if left.is_empty() {
        plain("Nothing is left behind.");
    } else {
        plain(format_args!("Left behind: {} ({removed:?})", left.join("; ")));
    }
    let finished = played.is_ok() || (told && !options.check);
    if finished && left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failed(failure: &Failure) {
    plain("\nThe demo has failed:");
    // The innermost cause last, where it is looked for.
    for cause in failure.error.chain() {
        say(cause.to_string().trim_end());
    }
    plain("What to do:");
    say(format_args!("{}.\n", failure.advice));
}

fn play(options: &Options, stop: &mut Stop, dir: &Path) -> Result<(), Failure> {
    let advise = |advice| move |error| Failure { error, advice };
    let assets = Assets::prepare()
        .map_err(advise("run scripts/demo, which installs, fetches and builds what is missing"))?;
    let vm = demo::boot(&assets, dir, options.stock).map_err(advise(
        "the VM takes 512 MiB of memory, and up to 700 MiB in the temporary directory, which\n\
         TMPDIR can name; `scripts/demo --stock` tells whether a VM with Debian's own agent works",
    ))?;
    let mut demo = Demo::start(&assets, dir, vm)
        .map_err(advise("read the gateway's log above; run the demo again with less beside it"))?;
    demo.show().map_err(advise(
        "run it again, with less running beside it; if it stays, this is a fault of qga, and the\n\
         message above is what to report",
    ))?;
    demo.show_lines();
    if options.check {
        demo.check_lines().map_err(advise("this is a fault of the demo: please report it"))?;
    } else {
        watch(&mut demo, stop).map_err(advise("run it again"))?;
    }
    step("Stopping the gateway and the VM");
    demo.end();
    Ok(())
}

/// Says what the lines that are pasted elsewhere do to the guest, until told to end.
fn watch(demo: &mut Demo, stop: &mut Stop) -> Result<()> {
    let mut frozen = false;
    let mut steady = 0;
    let mut last = None;
    let mut watched = true;
    while !stop.pause(TICK) {
        if !watched {
            continue;
        }
        if let Some(what) = demo.ended()? {
            say(what);
            say("Press Ctrl-C to end the demo.");
            watched = false;
            continue;
        }
        // A guest that reboots does not answer for a while.
        let Ok(now) = demo.writers() else { continue };
        if let Some(before) = &last {
            if writers::all_blocked(before, &now) {
                steady += 1;
            } else {
                steady = 0;
            }
            if !frozen && steady >= STEADY {
                frozen = true;
                say("The guest's writers stand still: frozen.");
            } else if frozen && writers::all_went_on(before, &now) {
                frozen = false;
                say("The guest's writers go on: thawed.");
            }
        }
        last = Some(now);
    }
    Ok(())
}
