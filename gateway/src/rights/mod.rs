//! Who may do what with which VM: principals × VM selectors × rights, denied by default.
//!
//! ```text
//!   config ──▶ Rules ──▶ Authority ◀── reload (SIGHUP)
//!                            │
//!        server: whose is this token?   api/caller: may this identity do that to this VM?
//! ```
//!
//! * A principal has what the grants that name it add up to, and nothing else.
//! * Root and the gateway's own user over the Unix socket, and the token of the token file, have
//!   every right, unless a grant names them: then they have what it says.
//! * Rights on files and programs may be limited to some ([`Scope`]). Who asks [`Rules::allow`] knows
//!   nothing of that, and is told that a limited right is none.
//! * A VM on which a principal has no right at all does not exist for it.

mod authority;
mod files;
mod grant;
mod programs;
mod scope;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use qga_proto::command::Right;

pub(crate) use self::authority::Bearer;
pub use self::authority::{Authority, Revocation};
pub use self::files::{FileRule, Prefix};
pub use self::grant::{Grant, GrantConfig, Preset};
pub(crate) use self::programs::check as check_program;
pub use self::programs::{Invocation, NotAllowed, ProgramRule};
pub use self::scope::Scope;
use self::tokens::Token;
pub(crate) use self::tokens::random as random_token;
pub use self::tokens::{Expiry, TokenConfig, TokenHash, TokenName, issue};
use crate::principal::Principal;
use crate::vm::VmId;

/// An authenticated caller: its name, and what else grants may know it by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The name that leases, answers and records hang on.
    pub principal: Principal,
    /// The groups of a Unix socket's peer, as `unix:gid=984`: the primary one first.
    pub groups: Vec<Principal>,
}

impl Identity {
    /// A Unix socket's peer.
    pub fn unix(uid: u32, gid: u32) -> Self {
        Self { principal: Principal::unix(uid), groups: vec![Principal::unix_group(gid)] }
    }

    /// The same, in these groups too.
    #[must_use]
    pub fn in_groups(mut self, gids: impl IntoIterator<Item = u32>) -> Self {
        self.groups.extend(gids.into_iter().map(Principal::unix_group));
        self
    }

    fn is(&self, name: &Principal) -> bool {
        let anybody = name.as_str() == grant::ANY_PEER && !self.groups.is_empty();
        anybody || self.principal == *name || self.groups.contains(name)
    }
}

impl From<Principal> for Identity {
    fn from(principal: Principal) -> Self {
        Self { principal, groups: Vec::new() }
    }
}

/// A VM as selectors see it. One that the gateway does not know any more has no labels to go by.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its id.
    pub id: &'a VmId,
    /// Its labels, if it is there.
    pub labels: Option<&'a BTreeMap<String, String>>,
}

/// All grants and tokens of a configuration.
#[derive(Debug, Default)]
pub struct Rules {
    grants: Vec<Grant>,
    tokens: Vec<Token>,
    /// Who has every right because no grant says otherwise.
    unlimited: BTreeSet<Principal>,
}

impl Rules {
    /// From a configuration's grants and tokens.
    pub fn new(grants: &[GrantConfig], tokens: &[TokenConfig]) -> Self {
        let grants: Vec<_> = grants.iter().map(Grant::from).collect();
        let own = rustix::process::geteuid().as_raw();
        let unlimited = [Principal::unix(0), Principal::unix(own), Principal::token_file()];
        let named = |name: &Principal| grants.iter().any(|grant| grant.to.contains(name));
        let unlimited = unlimited.into_iter().filter(|name| !named(name)).collect();
        Self { grants, tokens: tokens.iter().map(Token::from).collect(), unlimited }
    }

    /// Whether `who` may do to `vm` what `right` stands for, without limits.
    pub fn allow(&self, who: &Identity, right: Right, vm: Target<'_>) -> bool {
        self.unlimited.contains(&who.principal)
            || self.of(who).any(|grant| grant.gives(right) && grant.selects(vm))
    }

    /// Whether `vm` is there for `who`: whether any right on it is given.
    pub fn show(&self, who: &Identity, vm: Target<'_>) -> bool {
        self.unlimited.contains(&who.principal) || self.of(who).any(|grant| grant.selects(vm))
    }

    /// Whether `who` has `right` on whatever VM.
    pub fn know(&self, who: &Identity, right: Right) -> bool {
        self.unlimited.contains(&who.principal) || self.of(who).any(|grant| grant.gives(right))
    }

    /// Whether `who` has `right` on every VM that there may be.
    pub fn allow_all(&self, who: &Identity, right: Right) -> bool {
        self.unlimited.contains(&who.principal)
            || self.of(who).any(|grant| grant.gives(right) && grant.selects_all())
    }

    /// Whose the token with this hash is, if it is valid now.
    fn bearer(&self, hash: &TokenHash) -> Option<&Token> {
        // All of them, so that the time says nothing of which it is.
        let mut found = None;
        for token in &self.tokens {
            if token.is(hash) {
                found = Some(token);
            }
        }
        found.filter(|token| !token.is_over())
    }

    fn of<'a>(&'a self, who: &'a Identity) -> impl Iterator<Item = &'a Grant> {
        self.grants.iter().filter(|grant| grant.to.iter().any(|name| who.is(name)))
    }
}

/// The first key that makes no sense, with the reason.
pub(crate) fn contradiction(
    grants: &[GrantConfig],
    tokens: &[TokenConfig],
) -> Option<(String, String)> {
    let wrong = |(n, grant): (usize, &GrantConfig)| {
        let (key, cause) = grant.contradiction()?;
        let dot = if key.is_empty() { "" } else { "." };
        Some((format!("grant[{n}]{dot}{key}"), cause.into()))
    };
    if let Some(wrong) = grants.iter().enumerate().find_map(wrong) {
        return Some(wrong);
    }
    tokens.iter().enumerate().find_map(|(n, token)| {
        let before = tokens[..n].iter().position(|other| other.sha256 == token.sha256);
        before.map(|other| {
            (format!("token[{n}].sha256"), format!("is that of token[{other}] already"))
        })
    })
}

#[cfg(test)]
mod tests;
