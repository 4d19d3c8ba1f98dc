//! Callers whose right is limited to some files or programs. What is not here, they do not get.

use std::collections::BTreeMap;

use qga_proto::command::{CommandInfo, Right, XFileBeneath};

use super::{Caller, Vm, vm_not_found};
use crate::api::error::{Code, Outcome, Problem};
use crate::rights::{FileRule, Invocation, ProgramRule, Scope, Target, check_program};
use crate::vm::transfer::{Beneath, GuestPath};
use crate::vm::{Process, VmHandle, VmId};

/// What a refusal lists at most.
const LISTED: usize = 10;

impl Caller {
    /// The VM, for an operation that needs `right` on files at these paths and is carried out by
    /// `commands` where the guest has them; and what the guest is to hold them below.
    pub(crate) async fn files(
        &self,
        id: &str,
        right: Right,
        paths: &[&GuestPath],
        commands: &[&CommandInfo],
    ) -> Result<(Vm, Beneath), Problem> {
        let handle = self.find(id).ok_or_else(|| vm_not_found(id))?;
        self.context.concerns(handle.id());
        let rules = match self.app.authority.files(
            self.identity(),
            right,
            target(&handle, &handle.labels()),
        ) {
            Scope::Only(rules) => rules,
            // Says what is wrong, if there is no right at all.
            Scope::Everything | Scope::Nothing => {
                return Ok((self.vm(id, right)?, Beneath::default()));
            }
        };
        let vm = self.of(handle);
        let named = |path: &&&GuestPath| rules.iter().any(|rule| rule.prefix.holds(path.bytes()));
        if !paths.iter().all(|path| named(&path)) {
            return Err(self.outside(&vm, right, &rules));
        }
        let mut held = vm.offers(&<XFileBeneath as qga_proto::command::Command>::INFO).await?;
        for command in commands {
            held = held && vm.offers(command).await?;
        }
        if held {
            let directories = rules.into_iter().map(|rule| rule.prefix.to_string());
            return Ok((vm, Beneath::these(directories)));
        }
        // Another system may take a backslash for a slash, and then a name for a way up.
        let by_name = |path: &GuestPath| {
            let fits = |rule: &FileRule| rule.unenforced && rule.prefix.holds(path.bytes());
            !path.bytes().contains(&b'\\') && rules.iter().any(fits)
        };
        if paths.iter().all(|path| by_name(path)) {
            return Ok((vm, Beneath::default()));
        }
        Err(self.unenforced(&vm, right))
    }

    /// The VM, for an operation on programs that are there; which of them, [`Caller::uses`] says.
    pub(crate) fn programs(&self, id: &str) -> Result<Vm, Problem> {
        let handle = self.find(id).ok_or_else(|| vm_not_found(id))?;
        self.context.concerns(handle.id());
        match self.scope(&handle) {
            Scope::Only(_) => Ok(self.of(handle)),
            Scope::Everything | Scope::Nothing => self.vm(id, Right::Exec),
        }
    }

    /// Whether the caller may see, end and talk to a program: with limits, if it is its own, and it
    /// could be started now.
    pub(crate) fn uses(&self, vm: &VmHandle, process: &Process) -> bool {
        match self.scope(vm) {
            Scope::Everything => true,
            Scope::Nothing => false,
            Scope::Only(rules) => {
                let program = std::slice::from_ref(&process.program);
                process.owner.as_ref() == Some(self.principal())
                    && rules.iter().any(|rule| rule.is_about(program))
            }
        }
    }

    /// The same of the program of this number, if it is known.
    pub(crate) fn uses_number(&self, vm: &VmId, pid: i64) -> bool {
        let handle = self.app.registry.get(vm);
        let process = handle.as_ref().and_then(|handle| handle.process(pid));
        handle.zip(process).is_some_and(|(vm, process)| self.uses(&vm, &process))
    }

    /// The VM, for starting a program.
    pub(crate) fn may_run(&self, id: &str, wanted: &Invocation<'_>) -> Result<Vm, Problem> {
        let vm = self.programs(id)?;
        self.runs(vm.handle.id(), wanted)?;
        Ok(vm)
    }

    /// Refuses a program that the caller may not run.
    pub(crate) fn runs(&self, vm: &VmId, wanted: &Invocation<'_>) -> Result<(), Problem> {
        let labels = self.app.registry.get(vm).map(|vm| vm.labels());
        let target = Target { id: vm, labels: labels.as_deref() };
        let rules = match self.app.authority.programs(self.identity(), target) {
            Scope::Only(rules) => rules,
            Scope::Everything | Scope::Nothing => {
                return self.authorise(vm, Right::Exec);
            }
        };
        check_program(&rules, wanted).map_err(|why| {
            Problem::new(
                Code::Forbidden,
                format!(
                    "{} may run some programs on VM {vm} only (`programs` of its [[grant]]): {why}. \
                     Nothing was started.",
                    self.principal()
                ),
            )
            .outcome(Outcome::NotSent, false)
            .vm(vm)
        })
    }

    /// Refuses what nobody knows the reach of to whoever is limited to some files or programs.
    pub(crate) fn is_unlimited(&self, vm: &VmId, command: &str) -> Result<(), Problem> {
        let labels = self.app.registry.get(vm).map(|vm| vm.labels());
        let target = Target { id: vm, labels: labels.as_deref() };
        let rights = [Right::FilesRead, Right::FilesWrite, Right::Exec];
        if rights.into_iter().all(|right| self.limited(target, right).is_none()) {
            return Ok(());
        }
        let (who, id) = (self.principal(), vm);
        Err(Problem::new(
            Code::Forbidden,
            format!(
                "{who} may reach some files or programs of VM {id} only, and what {command} reaches \
                 the gateway does not know. Nothing was sent."
            ),
        )
        .outcome(Outcome::NotSent, false)
        .vm(id))
    }

    /// Why a right that has limits does not open an operation that cannot be held to them.
    pub(super) fn limited(&self, vm: Target<'_>, right: Right) -> Option<Problem> {
        let who = self.principal();
        let (what, instead) = match right {
            Right::FilesRead | Right::FilesWrite => {
                let Scope::Only(rules) = self.app.authority.files(self.identity(), right, vm)
                else {
                    return None;
                };
                (below(&rules), "use /vms/{id}/files and /vms/{id}/files/content")
            }
            Right::Exec => {
                let Scope::Only(_) = self.app.authority.programs(self.identity(), vm) else {
                    return None;
                };
                ("for some programs".to_owned(), "use /vms/{id}/processes")
            }
            _ => return None,
        };
        let id = vm.id;
        Some(
            Problem::new(
                Code::Forbidden,
                format!(
                    "{who} does not have the right {} on VM {id} without limits, only {what}, and \
                     this operation cannot be held to that: {instead}. Nothing was done.",
                    right.as_str()
                ),
            )
            .outcome(Outcome::NotSent, false)
            .vm(id),
        )
    }

    fn scope(&self, vm: &VmHandle) -> Scope<ProgramRule> {
        self.app.authority.programs(self.identity(), target(vm, &vm.labels()))
    }

    fn outside(&self, vm: &Vm, right: Right, rules: &[FileRule]) -> Problem {
        let (who, id) = (self.principal(), vm.handle.id());
        Problem::new(
            Code::Forbidden,
            format!(
                "{who} has the right {} on VM {id} only {} (`files` of its [[grant]]), and the path \
                 does not lie there; paths are absolute and without \"..\". Nothing was done.",
                right.as_str(),
                below(rules)
            ),
        )
        .outcome(Outcome::NotSent, false)
        .vm(id)
    }

    fn unenforced(&self, vm: &Vm, right: Right) -> Problem {
        let (who, id) = (self.principal(), vm.handle.id());
        Problem::new(
            Code::Forbidden,
            format!(
                "{who} has the right {} on VM {id} only below some directories, and the guest's agent \
                 cannot hold a path there (x-guest-file-beneath of qga-agent): a link in the guest could \
                 lead anywhere. Install qga-agent there, or set allow_unenforced in the [[grant]] if \
                 nobody in the guest can make such links. Nothing was done.",
                right.as_str()
            ),
        )
        .outcome(Outcome::NotSent, false)
        .vm(id)
    }
}

pub(super) fn target<'a>(vm: &'a VmHandle, labels: &'a BTreeMap<String, String>) -> Target<'a> {
    Target { id: vm.id(), labels: Some(labels) }
}

/// The caller's own directories, for its eyes.
fn below(rules: &[FileRule]) -> String {
    let mut all: Vec<_> = rules.iter().map(|rule| rule.prefix.as_str()).collect();
    all.sort_unstable();
    all.dedup();
    let more = if all.len() > LISTED { " and others" } else { "" };
    all.truncate(LISTED);
    format!("below {}{more}", all.join(", "))
}
