//! How far a right goes on a VM: everywhere, or for some files or programs only.

use super::files::FileRule;
use super::programs::ProgramRule;
use super::{Identity, Rules, Target};
use qga_proto::command::Right;

/// What all grants of a principal add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope<T> {
    /// It has no such right.
    Nothing,
    /// By these rules only, of which one has to fit.
    Only(Vec<T>),
    /// Without any rule.
    Everything,
}

impl<T> Scope<T> {
    fn with(self, more: Option<Vec<T>>) -> Self {
        match (self, more) {
            (Self::Everything, _) | (_, None) => Self::Everything,
            (Self::Nothing, Some(rules)) => Self::Only(rules),
            (Self::Only(mut rules), Some(more)) => {
                rules.extend(more);
                Self::Only(rules)
            }
        }
    }
}

impl Rules {
    /// Which files `who` may read or write on `vm`, by `right`.
    pub fn files(&self, who: &Identity, right: Right, vm: Target<'_>) -> Scope<FileRule> {
        if self.unlimited.contains(&who.principal) {
            return Scope::Everything;
        }
        let grants = self.of(who).filter(|grant| grant.mentions(right) && grant.selects(vm));
        grants.fold(Scope::Nothing, |scope, grant| scope.with(grant.file_rules()))
    }

    /// Which programs `who` may run on `vm`.
    pub fn programs(&self, who: &Identity, vm: Target<'_>) -> Scope<ProgramRule> {
        if self.unlimited.contains(&who.principal) {
            return Scope::Everything;
        }
        let grants = self.of(who).filter(|grant| grant.mentions(Right::Exec) && grant.selects(vm));
        grants.fold(Scope::Nothing, |scope, grant| scope.with(grant.programs.clone()))
    }
}
