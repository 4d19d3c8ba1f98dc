//! Whether the caller may what it asks for, before anything is written down for it; and whether that of
//! a repeat still may: rights are those of now, and a first answer is no way round their end.

use qga_proto::command::{Right, any_command_info};
use serde_json::Value;

use super::Keyed;
use crate::api::caller::{Caller, vm_not_found};
use crate::api::commands;
use crate::api::error::{Code, Problem};
use crate::api::file_handles;
use crate::api::processes;
use crate::vm::VmId;

/// Whether it may be a request's first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    First,
    Repeat,
}

impl Keyed {
    /// Refuses a VM that is not there for the caller, and a group to who could freeze none.
    pub(super) fn is_there(caller: &Caller, path: &str) -> Result<(), Problem> {
        match path.strip_prefix("/vms/").and_then(|rest| rest.split('/').next()) {
            Some(id) => caller.shows(&decode(id)),
            // A group of VMs.
            None => caller.knows(Right::Freeze),
        }
    }

    /// Refuses what the operation itself would refuse for want of rights.
    pub(super) fn permit(
        &self,
        caller: &Caller,
        name: &str,
        path: &str,
        body: &[u8],
        turn: Turn,
    ) -> Result<(), Problem> {
        let Some(keyed) = self.path(path) else { return Ok(()) };
        if keyed.template == "/freezes" {
            return self.permit_group(caller, name, body);
        }
        let parts: Vec<_> = path.split('/').map(decode).collect();
        let part = |name: &str| {
            let at = keyed.parts.iter().position(|part| part == name);
            at.and_then(|at| parts.get(at)).map_or("", |part| &**part)
        };
        let vm = part("{id}");
        let vm: VmId = vm.parse().map_err(|_| vm_not_found(vm))?;
        match &*keyed.template {
            "/vms/{id}/commands/{name}" => {
                caller.authorise(&vm, Right::Raw)?;
                let Some(info) = any_command_info(part("{name}")) else {
                    return caller.is_unlimited(&vm, part("{name}"));
                };
                let body: Value = serde_json::from_slice(body).unwrap_or_default();
                commands::permit(caller, &vm, info, &body["arguments"].to_string())
            }
            "/vms/{id}/processes" => match processes::order(body) {
                Some(order) => caller.runs(&vm, &processes::invocation(&order)),
                None => caller.authorise(&vm, Right::Exec),
            },
            "/vms/{id}/processes/{pid}/signal" => {
                let pid = part("{pid}").parse().ok();
                match pid.is_some_and(|pid| caller.uses_number(&vm, pid)) {
                    true => Ok(()),
                    // One that is not known yet is looked for in the guest by the operation itself.
                    false if turn == Turn::First => caller.programs(vm.as_str()).map(drop),
                    false => caller.authorise(&vm, Right::Exec),
                }
            }
            "/vms/{id}/file-handles" => caller.authorise(&vm, file_handles::right(body)),
            _ => {
                let right = Right::ALL.into_iter().find(|right| right.as_str() == keyed.right);
                // One that the document does not name so is none that anybody has by chance.
                caller.authorise(&vm, right.unwrap_or(Right::Raw))
            }
        }
    }

    /// A group's VMs are those of its lease, or those that were named.
    fn permit_group(&self, caller: &Caller, name: &str, body: &[u8]) -> Result<(), Problem> {
        let leases = self.app.leases.select(|lease| lease.is_under(name));
        if let Some(lease) = leases.first() {
            return caller.lease(lease.id.as_str(), Right::Freeze).map(drop);
        }
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let named: Vec<_> =
            body["vms"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // What is no id is for the operation to refuse.
        for id in named.iter().filter_map(|id| id.parse().ok()) {
            caller.authorise(&id, Right::Freeze)?;
        }
        // By labels, nothing is left that says which they were.
        if named.is_empty() && !self.app.authority.know(caller.identity(), Right::Freeze) {
            let text = "You do not have the right freeze on any VM any more. Nothing was done.";
            return Err(Problem::new(Code::Forbidden, text));
        }
        Ok(())
    }
}

/// A part of a path without its percent signs.
fn decode(part: &str) -> String {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.as_bytes();
    while let [first, more @ ..] = rest {
        let hex = more.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &more[2..] } else { more };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
