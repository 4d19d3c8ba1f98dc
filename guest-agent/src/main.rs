//! `qga-agent`: a QEMU guest agent for Linux, a drop-in for `qemu-ga`.
//!
//! The poll thread ([`agent`]) moves bytes between channels and their [`session`]s; commands that
//! may block run on workers, and what freezes runs in the [`freeze`] engine.

mod accounts;
mod agent;
mod channel;
mod daemon;
mod disk;
mod dispatch;
mod errno;
mod exec;
mod files;
mod freeze;
mod gauge;
mod handler;
mod helper;
mod log;
mod options;
mod session;
mod start;
mod state;
mod sys;
mod worker;

use std::io::Write as _;
use std::process::ExitCode;

use options::Asked;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os();
    let program = arguments.next().unwrap_or_default();
    let program = program.to_string_lossy();
    let (text, code) = match options::parse(arguments) {
        Asked::Run(options) => return start::run(options),
        Asked::Help => (options::help(&program), ExitCode::SUCCESS),
        Asked::Version => (format!("{}\n", options::VERSION), ExitCode::SUCCESS),
        Asked::Unknown(what) => {
            drop(writeln!(std::io::stderr(), "{program}: {what}"));
            let hint = format!("Unknown option, try '{program} --help' for more information.\n");
            (hint, ExitCode::FAILURE)
        }
    };
    drop(std::io::stdout().write_all(text.as_bytes()));
    code
}
