//! Bodies that take long: they end when the right does by which they began.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use axum::body::{Body, HttpBody as _};
use futures_util::StreamExt as _;
use futures_util::stream::unfold;
use qga_proto::command::Right;

use super::limited::target;
use super::{Caller, unauthenticated};
use crate::api::access::wrong_token;
use crate::api::error::Problem;
use crate::rights::Scope;
use crate::vm::VmHandle;
use crate::vm::transfer::GuestPath;

impl Caller {
    /// The body, broken off as soon as `holds` does not hold any more or the caller would not be let
    /// in: with an error, so that neither side takes a part for the whole.
    pub(crate) fn while_allowed(
        &self,
        body: Body,
        holds: impl Fn(&Self) -> bool + Send + Sync + 'static,
    ) -> Body {
        // What is whole in memory is as good as sent.
        if body.size_hint().exact().is_some_and(|left| left == 0) {
            return body;
        }
        let caller = self.clone();
        let over = Box::pin(async move { caller.revoked(|| holds(&caller)).await });
        let pieces = Some((body.into_data_stream(), over));
        Body::from_stream(unfold(pieces, |pieces| async {
            let (mut stream, mut over) = pieces?;
            let piece = poll_fn(|context| match over.as_mut().poll(context) {
                Poll::Ready(()) => Poll::Ready(Some(Err(axum::Error::new(withdrawn())))),
                Poll::Pending => stream.poll_next_unpin(context),
            });
            let piece = pin!(piece).await?;
            let rest = piece.is_ok().then_some((stream, over));
            Some((piece, rest))
        }))
    }

    /// Returns once the caller would not be let in any more, or has lost the right to all of the VM: for
    /// what it leaves behind in the guest.
    pub(crate) fn loses(
        &self,
        vm: &VmHandle,
        right: Right,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (authority, identity) = (self.app.authority.clone(), self.identity().clone());
        let mut watch = authority.watch(self.proof.bearer.clone());
        let vm = vm.clone();
        let may = move || authority.allow(&identity, right, target(&vm, &vm.labels()));
        async move { watch.until(may).await }
    }

    /// Refuses, as a new request, one that has taken its time.
    pub(crate) fn still(
        &self,
        holds: impl Fn(&Self) -> Result<(), Problem>,
    ) -> Result<(), Problem> {
        match self.proof.is_in(&self.app.authority) {
            true => holds(self),
            false if self.proof.bearer.is_some() => Err(wrong_token()),
            false => Err(unauthenticated()),
        }
    }

    /// Waits until a new request would be refused, and says why.
    pub(crate) async fn refused(&self, holds: impl Fn(&Self) -> Result<(), Problem>) -> Problem {
        loop {
            self.revoked(|| holds(self).is_ok()).await;
            // Unless it has been given back meanwhile.
            if let Err(problem) = self.still(&holds) {
                return problem;
            }
        }
    }

    /// Refuses a VM that the caller held by `right` and may not use any more, also one that has gone.
    pub(crate) fn still_may(&self, vm: &VmHandle, right: Right) -> Result<(), Problem> {
        self.permit(vm.id(), Some(&*vm.labels()), right)
    }

    /// Whether the caller may now do to this file what takes `right`, as far as its name tells.
    pub(crate) fn reaches(&self, vm: &VmHandle, right: Right, path: &GuestPath) -> bool {
        let labels = vm.labels();
        match self.app.authority.files(self.identity(), right, target(vm, &labels)) {
            Scope::Everything => true,
            Scope::Nothing => false,
            Scope::Only(rules) => rules.iter().any(|rule| rule.prefix.holds(path.bytes())),
        }
    }
}

fn withdrawn() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the right to go on has been taken away")
}
