//! The rules in force, which a reload replaces under requests and open streams.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use qga_proto::command::Right;
use tokio::sync::watch;

use super::tokens::Token;
use super::{FileRule, Identity, ProgramRule, Rules, Scope, Target, TokenHash};
use crate::principal::Principal;

/// The rules in force. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authority {
    rules: watch::Sender<InForce>,
    /// The token of the token file, which no configuration holds.
    own: Option<Token>,
}

#[derive(Clone, Debug)]
struct InForce {
    rules: Arc<Rules>,
    /// Those before, while a reload is under way: VMs have labels of either configuration then, and
    /// what both rules allow with whatever labels was allowed before it, or will be after it.
    before: Option<Arc<Rules>>,
}

impl InForce {
    /// Of two lists, the new one: that there is a right at all, both say.
    fn scope<T>(&self, of: impl Fn(&Rules) -> Scope<T>) -> Scope<T> {
        match (of(&self.rules), self.before.as_deref().map(of)) {
            (Scope::Everything, Some(before)) => before,
            (_, Some(Scope::Nothing)) => Scope::Nothing,
            (now, _) => now,
        }
    }

    fn all(&self, allow: impl Fn(&Rules) -> bool) -> bool {
        allow(&self.rules) && self.before.as_deref().is_none_or(allow)
    }
}

/// What a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bearer {
    pub(crate) principal: Principal,
    hash: TokenHash,
}

impl Authority {
    /// With these rules to begin with.
    pub fn new(rules: Rules) -> Self {
        Self {
            rules: watch::Sender::new(InForce { rules: Arc::new(rules), before: None }),
            own: None,
        }
    }

    /// Takes the token of the token file too.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        let principal = Principal::token_file();
        Self { own: Some(Token { principal, hash: TokenHash::of(token), expires: None }), ..self }
    }

    /// From now on these rules hold, for open streams too.
    pub fn replace(&self, rules: Rules) {
        self.begin(rules);
        self.settle();
    }

    /// From now on these rules hold, together with those before until [`settle`](Self::settle).
    /// Streams are not looked at until then.
    pub(crate) fn begin(&self, rules: Rules) {
        self.rules.send_if_modified(|held| {
            let before = std::mem::replace(&mut held.rules, Arc::new(rules));
            held.before.get_or_insert(before);
            false
        });
    }

    /// All VMs have the labels that the rules are made for. Open streams are looked at again.
    pub(crate) fn settle(&self) {
        self.rules.send_modify(|held| held.before = None);
    }

    /// The rules in force now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.borrow().rules.clone()
    }

    /// See [`Rules::allow`].
    pub(crate) fn allow(&self, who: &Identity, right: Right, vm: Target<'_>) -> bool {
        self.rules.borrow().all(|rules| rules.allow(who, right, vm))
    }

    /// See [`Rules::files`].
    pub(crate) fn files(&self, who: &Identity, right: Right, vm: Target<'_>) -> Scope<FileRule> {
        self.rules.borrow().scope(|rules| rules.files(who, right, vm))
    }

    /// See [`Rules::programs`].
    pub(crate) fn programs(&self, who: &Identity, vm: Target<'_>) -> Scope<ProgramRule> {
        self.rules.borrow().scope(|rules| rules.programs(who, vm))
    }

    /// See [`Rules::show`].
    pub(crate) fn show(&self, who: &Identity, vm: Target<'_>) -> bool {
        self.rules.borrow().all(|rules| rules.show(who, vm))
    }

    /// See [`Rules::allow_all`].
    pub(crate) fn allow_all(&self, who: &Identity, right: Right) -> bool {
        self.rules.borrow().all(|rules| rules.allow_all(who, right))
    }

    /// See [`Rules::know`].
    pub(crate) fn know(&self, who: &Identity, right: Right) -> bool {
        self.rules.borrow().all(|rules| rules.know(who, right))
    }

    /// Whose token this is, if it is one.
    pub(crate) fn bearer(&self, token: &str) -> Option<Bearer> {
        let hash = TokenHash::of(token);
        let own = self.own.as_ref().filter(|own| own.is(&hash));
        let rules = &self.rules.borrow().rules;
        let found = rules.bearer(&hash).or(own)?;
        Some(Bearer { principal: found.principal.clone(), hash })
    }

    /// Follows whether what a caller proved still counts.
    pub(crate) fn watch(&self, bearer: Option<Bearer>) -> Revocation {
        let own = self.own.as_ref().map(|own| own.hash);
        let bearer = bearer.filter(|bearer| Some(bearer.hash) != own);
        Revocation { rules: self.rules.subscribe(), bearer }
    }
}

/// Ends streams whose caller is not let in any more.
#[derive(Clone, Debug)]
pub struct Revocation {
    rules: watch::Receiver<InForce>,
    /// `None`: nothing that a reload or time takes away.
    bearer: Option<Bearer>,
}

impl Revocation {
    /// Whether the caller would still be let in.
    pub(crate) fn is_in(&self) -> bool {
        let rules = &self.rules.borrow().rules;
        self.bearer.as_ref().is_none_or(|bearer| {
            rules.bearer(&bearer.hash).is_some_and(|found| found.principal == bearer.principal)
        })
    }

    /// Returns once `holds` does not hold any more, or the caller would not be let in: looked at
    /// with each reload, and when the token expires.
    pub(crate) async fn until(&mut self, holds: impl Fn() -> bool) {
        loop {
            // What is seen below is at least as new as this.
            self.rules.mark_unchanged();
            if !self.is_in() || !holds() {
                return;
            }
            let left = self.left();
            let over = async {
                match left {
                    Some(left) => tokio::time::sleep(left.min(LOOK)).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.rules.changed() => if changed.is_err() {
                    // The gateway ends, and with it everything that could change.
                    std::future::pending::<()>().await;
                },
                () = over => {}
            }
        }
    }

    fn left(&self) -> Option<Duration> {
        let rules = &self.rules.borrow().rules;
        let expires = rules.bearer(&self.bearer.as_ref()?.hash)?.expires?;
        Some(expires.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// Wall time jumps: an expiry that is far off is looked at again this soon.
const LOOK: Duration = Duration::from_secs(60);
