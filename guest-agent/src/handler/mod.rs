//! What each command does. One file per family, each with its table of [`Handler`]s; adding a
//! command means adding a function and a line to its family's table.

mod accounts;
mod clock;
mod cpu;
mod disk;
mod exec;
mod exec_ext;
mod file;
mod file_ext;
mod filesystem;
mod fsfreeze;
mod identity;
mod memory;
mod network;
mod power;
mod session;

use std::sync::Arc;

use qga_proto::{Outcome, QgaError, Request};

use crate::accounts::Desk;
use crate::exec::Ask;
use crate::files::FileTable;
use crate::filter::Filter;
use crate::freeze::{Freezer, Order};
use crate::gauge::Gauge;
use crate::worker::Run;

/// Where and how a command runs.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    /// On the poll thread, at once: only what cannot block.
    Poll(fn(&View, &Request) -> Result<Outcome, QgaError>),
    /// On the file worker.
    Files(Run<FileTable>),
    /// The same for a command whose arguments may ask for what the channel may not.
    FilesIf(fn(&Filter, &Request) -> Result<(), QgaError>, Run<FileTable>),
    /// On the worker for questions to the kernel, any of which may block.
    Queries(Run<()>),
    /// On the worker that looks at filesystems and disks, which may never answer.
    Filesystems(Run<Gauge>),
    /// On the worker that trims filesystems, which may take minutes.
    Trims(Run<()>),
    /// On the worker that works in users' home directories.
    Accounts(Run<Desk>),
    /// On the worker for helper programs.
    Helpers(Run<()>),
    /// On the thread that owns the programs that clients start.
    Programs(Ask),
    /// At once too, from what the freeze engine has published.
    Freezes(fn(&Freezer, &Request) -> Result<Outcome, QgaError>),
    /// In the freeze engine; the arguments are read on the poll thread.
    Freezer(fn(&Request) -> Result<Order, QgaError>),
}

/// A command's implementation.
#[derive(Clone, Copy)]
pub(crate) struct Handler {
    pub(crate) command: &'static str,
    pub(crate) place: Place,
}

/// What a command on the poll thread can see of the agent.
#[derive(Debug)]
pub(crate) struct View {
    /// Filesystems are frozen, or about to be.
    pub(crate) frozen: bool,
    /// What the channel that asks may use.
    pub(crate) filter: Arc<Filter>,
}

/// All handlers, sorted by name.
pub(crate) fn all() -> Vec<Handler> {
    let families = [
        accounts::HANDLERS,
        clock::HANDLERS,
        cpu::HANDLERS,
        disk::HANDLERS,
        exec::HANDLERS,
        exec_ext::HANDLERS,
        file::HANDLERS,
        file_ext::HANDLERS,
        filesystem::HANDLERS,
        fsfreeze::HANDLERS,
        identity::HANDLERS,
        memory::HANDLERS,
        network::HANDLERS,
        power::HANDLERS,
        session::HANDLERS,
    ];
    let mut handlers = families.concat();
    handlers.sort_unstable_by_key(|handler| handler.command);
    handlers
}

#[cfg(test)]
mod tests {
    use super::*;
    use qga_proto::command::COMMANDS;

    #[test]
    fn every_command_of_the_table_has_one_handler() {
        let handlers: Vec<_> = all().into_iter().map(|handler| handler.command).collect();
        let mut commands: Vec<_> = COMMANDS.iter().map(|info| info.name).collect();
        commands.sort_unstable();
        assert_eq!(handlers, commands);
    }
}
