//! `guest-exec`, `guest-exec-status`.
//!
//! The log names the program and never its arguments, which may be secrets.

use qga_proto::command::{Command as _, GuestExec, GuestExecStatus};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::exec::{Order, Programs};
use crate::log;
use crate::worker::Reply;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestExec::INFO.name, place: Place::Programs(start) },
    Handler { command: GuestExecStatus::INFO.name, place: Place::Programs(status) },
];

fn start(programs: &mut Programs, request: &Request, reply: Reply) {
    match read(request) {
        Ok(order) => programs.start(order, reply),
        Err(error) => reply.send(Outcome::Error(error)),
    }
}

fn read(request: &Request) -> Result<Order, QgaError> {
    let arguments: GuestExec = request.arguments()?;
    log::info(format_args!("guest-exec called: \"{}\"", arguments.path));
    Order::new(arguments)
}

fn status(programs: &mut Programs, request: &Request, reply: Reply) {
    let status = request.arguments().and_then(|GuestExecStatus { pid }| programs.status(pid));
    reply.send(status.into());
}
