//! `qga-agent`: a QEMU guest agent for Linux, a drop-in for `qemu-ga`.
//!
//! The poll thread ([`agent`]) moves bytes between channels and their [`session`]s; commands that
//! may block run on workers, and what freezes runs in the [`freeze`] engine.

mod accounts;
mod agent;
mod bounded;
mod calendar;
mod channel;
mod completions;
mod config;
mod daemon;
mod disk;
mod dispatch;
mod errno;
mod exec;
mod files;
mod filter;
mod freeze;
#[cfg(test)]
mod fuzz;
mod gauge;
mod handler;
mod hardware_clock;
mod helper;
mod kin;
mod log;
mod memory_blocks;
mod network;
mod options;
mod os_release;
mod policy;
mod processors;
mod quiet;
mod session;
mod start;
mod state;
mod suspend;
mod sys;
mod timezone;
mod users;
mod worker;

use std::io::Write as _;
use std::process::ExitCode;

use options::Asked;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let program = program.to_string_lossy();
    let (text, code) = match options::parse(arguments) {
        Asked::Run(options) => return start::run(*options),
        Asked::Help => (options::help(&program), ExitCode::SUCCESS),
        Asked::Version => (format!("{}\n", options::VERSION), ExitCode::SUCCESS),
        Asked::Commands => (options::commands(), ExitCode::SUCCESS),
        Asked::Unknown(what) => {
            drop(writeln!(std::io::stderr(), "{program}: {what}"));
            let hint = format!("Unknown option, try '{program} --help' for more information.\n");
            (hint, ExitCode::FAILURE)
        }
    };
    drop(std::io::stdout().write_all(text.as_bytes()));
    code
}
