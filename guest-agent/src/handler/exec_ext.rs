//! `x-guest-exec-start`, `-list`, `-wait`, `-read`, `-write`, `-signal`, `-resize`, `-forget`.
//!
//! The log names the program and never its arguments, which may be secrets.

use qga_proto::command::{
    Command, XExecForget, XExecList, XExecRead, XExecResize, XExecSignal, XExecStart, XExecWait,
    XExecWrite,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::exec::{LiveOrder, Programs};
use crate::log;
use crate::worker::Reply;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: XExecStart::INFO.name, place: Place::Programs(start) },
    Handler { command: XExecList::INFO.name, place: Place::Programs(list) },
    Handler { command: XExecWait::INFO.name, place: Place::Programs(wait) },
    Handler { command: XExecRead::INFO.name, place: Place::Programs(read) },
    Handler { command: XExecWrite::INFO.name, place: Place::Programs(write) },
    Handler { command: XExecSignal::INFO.name, place: Place::Programs(signal) },
    Handler { command: XExecResize::INFO.name, place: Place::Programs(resize) },
    Handler { command: XExecForget::INFO.name, place: Place::Programs(forget) },
];

fn start(programs: &mut Programs, request: &Request, reply: Reply) {
    let order = request.arguments().and_then(|arguments: XExecStart| {
        let program = arguments.argv.first().map_or("", String::as_str);
        log::info(format_args!("x-guest-exec-start called: \"{program}\""));
        LiveOrder::new(arguments)
    });
    match order {
        Ok(order) => programs.start_live(order, reply),
        Err(error) => reply.send(Outcome::Error(error)),
    }
}

fn wait(programs: &mut Programs, request: &Request, reply: Reply) {
    match request.arguments() {
        Ok(arguments) => programs.wait(arguments, reply),
        Err(error) => reply.send(Outcome::Error(error)),
    }
}

fn list(programs: &mut Programs, request: &Request, reply: Reply) {
    answer(programs, request, reply, Programs::list);
}

fn read(programs: &mut Programs, request: &Request, reply: Reply) {
    answer(programs, request, reply, Programs::read_output);
}

fn write(programs: &mut Programs, request: &Request, reply: Reply) {
    answer(programs, request, reply, Programs::write_input);
}

fn signal(programs: &mut Programs, request: &Request, reply: Reply) {
    answer(programs, request, reply, Programs::signal);
}

fn resize(programs: &mut Programs, request: &Request, reply: Reply) {
    answer(programs, request, reply, Programs::resize);
}

fn forget(programs: &mut Programs, request: &Request, reply: Reply) {
    answer(programs, request, reply, Programs::forget);
}

fn answer<C: Command>(
    programs: &mut Programs,
    request: &Request,
    reply: Reply,
    run: fn(&mut Programs, C) -> Result<C::Return, QgaError>,
) {
    reply.send(request.arguments().and_then(|arguments| run(programs, arguments)).into());
}
