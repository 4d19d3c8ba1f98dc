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
    rules: watch::Sender<Arc<Rules>>,
    /// The token of the token file, which no configuration holds.
    own: Option<Token>,
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
        Self { rules: watch::Sender::new(Arc::new(rules)), own: None }
    }

    /// Takes the token of the token file too.
    #[must_use]
    pub fn with_token(self, token: &str) -> Self {
        let principal = Principal::token_file();
        Self { own: Some(Token { principal, hash: TokenHash::of(token), expires: None }), ..self }
    }

    /// From now on these rules hold, for open streams too.
    pub fn replace(&self, rules: Rules) {
        self.rules.send_replace(Arc::new(rules));
    }

    /// The rules in force now.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.borrow().clone()
    }

    /// See [`Rules::allow`].
    pub(crate) fn allow(&self, who: &Identity, right: Right, vm: Target<'_>) -> bool {
        self.rules.borrow().allow(who, right, vm)
    }

    /// See [`Rules::files`].
    pub(crate) fn files(&self, who: &Identity, right: Right, vm: Target<'_>) -> Scope<FileRule> {
        self.rules.borrow().files(who, right, vm)
    }

    /// See [`Rules::programs`].
    pub(crate) fn programs(&self, who: &Identity, vm: Target<'_>) -> Scope<ProgramRule> {
        self.rules.borrow().programs(who, vm)
    }

    /// See [`Rules::show`].
    pub(crate) fn show(&self, who: &Identity, vm: Target<'_>) -> bool {
        self.rules.borrow().show(who, vm)
    }

    /// See [`Rules::allow_all`].
    pub(crate) fn allow_all(&self, who: &Identity, right: Right) -> bool {
        self.rules.borrow().allow_all(who, right)
    }

    /// See [`Rules::know`].
    pub(crate) fn know(&self, who: &Identity, right: Right) -> bool {
        self.rules.borrow().know(who, right)
    }

    /// Whose token this is, if it is one.
    pub(crate) fn bearer(&self, token: &str) -> Option<Bearer> {
        let hash = TokenHash::of(token);
        let own = self.own.as_ref().filter(|own| own.is(&hash));
        let rules = self.rules.borrow();
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
    rules: watch::Receiver<Arc<Rules>>,
    /// `None`: nothing that a reload or time takes away.
    bearer: Option<Bearer>,
}

impl Revocation {
    /// Whether the caller would still be let in.
    pub(crate) fn is_in(&self) -> bool {
        let rules = self.rules.borrow();
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
        let rules = self.rules.borrow();
        let expires = rules.bearer(&self.bearer.as_ref()?.hash)?.expires?;
        Some(expires.duration_since(SystemTime::now()).unwrap_or_default())
    }
}

/// Wall time jumps: an expiry that is far off is looked at again this soon.
const LOOK: Duration = Duration::from_secs(60);
