//! Who calls, and the only way for a handler to a VM or a lease: by naming the right it needs.

mod limited;
mod streams;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use qga_proto::command::{Command, CommandInfo, Right};

use super::App;
use super::access::Proof;
use super::call_timeout::CallTimeout;
use super::context::{RequestContext, TimedCall};
use super::error::{Code, Problem, guest};
use super::lease::LeaseBody;
use crate::principal::Principal;
use crate::rights::{Identity, Target};
use crate::vm::{CallError, CallOptions, Lease, Leases, VmHandle, VmId};

/// An authenticated caller of one request. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Caller {
    app: App,
    context: Arc<RequestContext>,
    proof: Proof,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let context = parts.extensions.get::<Arc<RequestContext>>().cloned();
        let proof = context.as_ref().and_then(|c| c.proof.clone());
        // The front lets nobody through without a principal, save to the public operations.
        let (Some(context), Some(proof)) = (context, proof) else {
            return Err(unauthenticated());
        };
        Ok(Self { app: app.clone(), context, proof })
    }
}

/// That the VM in the path is there for the caller: asked before a body is read that may be large.
#[derive(Debug)]
pub(crate) struct Shown;

impl FromRequestParts<App> for Shown {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let path = RawPathParams::from_request_parts(parts, app).await;
        let path = path.map_err(|error| Problem::bad_request(format!("{error}.")))?;
        let id = path.iter().find_map(|(name, value)| (name == "id").then_some(value));
        caller.shows(id.unwrap_or_default()).map(|()| Self)
    }
}

pub(crate) fn unauthenticated() -> Problem {
    Problem::new(
        Code::Unauthenticated,
        "Over TCP every request needs the header \"Authorization: Bearer TOKEN\" with a token of \
         the gateway. Over the Unix socket no token is needed.",
    )
}

impl Caller {
    /// Who makes a request that is answered before its handler.
    pub(super) fn of_request(app: &App, context: &Arc<RequestContext>) -> Result<Self, Problem> {
        let proof = context.proof.clone().ok_or_else(unauthenticated)?;
        Ok(Self { app: app.clone(), context: context.clone(), proof })
    }

    pub(crate) fn principal(&self) -> &Principal {
        &self.proof.identity.principal
    }

    /// What the caller has proved, for a ticket.
    pub(super) fn proof(&self) -> &Proof {
        &self.proof
    }

    pub(crate) fn app(&self) -> &App {
        &self.app
    }

    /// The leases, for a freeze: one that is begun knows the request's key.
    pub(crate) fn leases(&self) -> Leases {
        self.app.leases.under(self.context.reply_key())
    }

    /// The VM of this id, for an operation that needs `right`.
    pub(crate) fn vm(&self, id: &str, right: Right) -> Result<Vm, Problem> {
        let vm = self.find(id).ok_or_else(|| vm_not_found(id))?;
        self.context.concerns(vm.id());
        self.permit(vm.id(), Some(&*vm.labels()), right)?;
        Ok(self.of(vm))
    }

    /// The VM as the caller may use it; which it must be allowed to.
    fn of(&self, handle: VmHandle) -> Vm {
        let (app, context) = (self.app.clone(), self.context.clone());
        Vm { app, context, handle, timeout: None }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.proof.identity
    }

    /// The lease of this id, for an operation that needs `right` on each of its VMs.
    pub(crate) fn lease(&self, id: &str, right: Right) -> Result<Lease, Problem> {
        let lease = id.parse().ok().and_then(|id| self.app.leases.get(&id));
        let lease = lease.ok_or_else(|| lease_not_found(id))?;
        if !self.sees(&lease) {
            return Err(lease_not_found(id));
        }
        self.context.is_under(&lease.id);
        lease.members.iter().for_each(|member| self.context.concerns(&member.vm));
        self.over(&lease, right)?;
        Ok(lease)
    }

    /// Refuses what the caller has no right to on one of the lease's VMs.
    pub(crate) fn over(&self, lease: &Lease, right: Right) -> Result<(), Problem> {
        let mut vms = lease.members.iter().map(|member| &member.vm);
        vms.try_for_each(|vm| self.authorise_on(lease, vm, right))
    }

    /// A lease as the caller may see it: of VMs that are not there for it, nothing.
    pub(crate) fn part_of(&self, mut lease: Lease) -> LeaseBody {
        if !self.sees(&lease) {
            lease.members.retain(|member| self.sees_vm(&member.vm));
            (lease.label, lease.spread) = (None, None);
        }
        lease.into()
    }

    /// Refuses to renew or end a lease that is somebody else's, unless the caller insists and may.
    pub(crate) fn owns(&self, lease: &Lease, force: bool) -> Result<(), Problem> {
        if lease.ended() || lease.owner == *self.principal() {
            return Ok(());
        }
        if force {
            let mut vms = lease.members.iter().map(|member| &member.vm);
            return vms.try_for_each(|vm| self.authorise(vm, Right::FreezeForce));
        }
        Err(Problem::new(
            Code::Forbidden,
            format!(
                "Lease {} belongs to {}, and you are {}. Only its owner renews or ends it; \
                 \"?force=true\" does too, with the right freeze_force. Nothing was done.",
                lease.id,
                lease.owner,
                self.principal()
            ),
        )
        .lease(&lease.id))
    }

    /// Refuses what the caller has no right to. A VM on which it has none at all does not exist
    /// for it.
    pub(crate) fn authorise(&self, vm: &VmId, right: Right) -> Result<(), Problem> {
        let handle = self.app.registry.get(vm);
        self.permit(vm, handle.as_ref().map(VmHandle::labels).as_deref(), right)
    }

    /// Whether the caller may.
    pub(crate) fn may(&self, vm: &VmHandle, right: Right) -> bool {
        let labels = vm.labels();
        let target = Target { id: vm.id(), labels: Some(&*labels) };
        self.app.authority.allow(&self.proof.identity, right, target)
    }

    /// Whether the caller may with every VM, those included that will come.
    pub(crate) fn may_everywhere(&self, right: Right) -> bool {
        self.app.authority.allow_all(&self.proof.identity, right)
    }

    /// Refuses whoever has the right on no VM at all.
    pub(crate) fn knows(&self, right: Right) -> Result<(), Problem> {
        if self.app.authority.know(&self.proof.identity, right) {
            return Ok(());
        }
        Err(Problem::new(
            Code::Forbidden,
            format!(
                "{} does not have the right {} on any VM; a [[grant]] in the gateway's configuration \
                 would give it. Nothing was done.",
                self.principal(),
                right.as_str()
            ),
        ))
    }

    /// Whether the VM is there for the caller.
    pub(crate) fn sees_vm(&self, vm: &VmId) -> bool {
        let labels = self.app.registry.get(vm).map(|vm| vm.labels());
        let target = Target { id: vm, labels: labels.as_deref() };
        self.app.authority.show(&self.proof.identity, target)
    }

    /// Refuses a VM that is not there for the caller.
    pub(crate) fn shows(&self, id: &str) -> Result<(), Problem> {
        match id.parse() {
            Ok(vm) if self.sees_vm(&vm) => Ok(()),
            _ => Err(vm_not_found(id)),
        }
    }

    /// Whether the lease is there for the caller: whether each of its VMs is. Its own is also when
    /// a VM of it has gone, with the labels by which it was granted.
    pub(crate) fn sees(&self, lease: &Lease) -> bool {
        let mut vms = lease.members.iter().map(|member| &member.vm);
        vms.all(|vm| self.sees_vm(vm) || self.keeps(lease, vm, Right::Freeze))
    }

    /// Whether the caller may do this with a lease, for many leases: each VM is looked at once.
    pub(crate) fn may_with_leases(&self, right: Right) -> impl FnMut(&Lease) -> bool {
        let knows = self.app.authority.know(&self.proof.identity, right);
        let mut known: HashMap<VmId, bool> = HashMap::new();
        move |lease| {
            let mut vms = lease.members.iter().map(|member| &member.vm);
            knows
                && vms.all(|vm| {
                    let may = known.get(vm).copied().unwrap_or_else(|| {
                        let may = self.may_on(vm, right);
                        known.insert(vm.clone(), may);
                        may
                    });
                    may || self.keeps(lease, vm, right)
                })
        }
    }

    fn may_on(&self, vm: &VmId, right: Right) -> bool {
        let labels = self.app.registry.get(vm).map(|vm| vm.labels());
        let target = Target { id: vm, labels: labels.as_deref() };
        self.app.authority.allow(&self.proof.identity, right, target)
    }

    fn authorise_on(&self, lease: &Lease, vm: &VmId, right: Right) -> Result<(), Problem> {
        if self.keeps(lease, vm, right) { Ok(()) } else { self.authorise(vm, right) }
    }

    /// Whether it is the caller's own lease of a VM that has gone.
    fn keeps(&self, lease: &Lease, vm: &VmId, right: Right) -> bool {
        lease.owner == *self.principal()
            && self.app.registry.get(vm).is_none()
            && self.app.authority.know(&self.proof.identity, right)
    }

    fn permit(
        &self,
        id: &VmId,
        labels: Option<&BTreeMap<String, String>>,
        right: Right,
    ) -> Result<(), Problem> {
        let (identity, target) = (&self.proof.identity, Target { id, labels });
        if self.app.authority.allow(identity, right, target) {
            return Ok(());
        }
        if !self.app.authority.show(identity, target) {
            return Err(vm_not_found(id.as_str()));
        }
        if let Some(problem) = self.limited(target, right) {
            return Err(problem);
        }
        Err(Problem::new(
            Code::Forbidden,
            format!(
                "{} does not have the right {} on VM {id}; a [[grant]] in the gateway's \
                 configuration would give it. Nothing was done.",
                identity.principal,
                right.as_str()
            ),
        )
        .vm(id))
    }

    /// Returns once the caller would not be let in any more, or `holds` does not hold: for streams,
    /// which must end when rights do.
    pub(crate) async fn revoked(&self, holds: impl Fn() -> bool) {
        self.proof.revoked(&self.app.authority, holds).await;
    }

    /// Nothing of the request's body is in memory for it any more.
    pub(crate) fn lets_go(&self) {
        self.context.lets_go();
    }

    /// Notes the lease that the request made.
    pub(crate) fn made(&self, lease: &Lease) {
        self.context.is_under(&lease.id);
        lease.members.iter().for_each(|member| self.context.concerns(&member.vm));
    }

    /// Notes the file or program that the request is about, which is put on record in clear.
    pub(crate) fn is_about(&self, object: &str) {
        self.context.is_about(object);
    }

    /// Notes the guest command for the log, where a lease sends it and not [`Vm::call`].
    pub(crate) fn sends(&self, command: &'static str) {
        self.context.sends(command);
    }

    fn find(&self, id: &str) -> Option<VmHandle> {
        self.app.registry.get(&id.parse().ok()?)
    }
}

/// A VM that the caller may use as it said.
pub(crate) struct Vm {
    app: App,
    context: Arc<RequestContext>,
    pub(crate) handle: VmHandle,
    timeout: Option<Duration>,
}

impl Vm {
    /// With the time that the request allows for a call, where it says so.
    pub(crate) fn within(self, timeout: CallTimeout) -> Self {
        Self { timeout: timeout.get(), ..self }
    }

    /// The timeout and answer limit of a command's kind, or the request's own timeout.
    pub(crate) fn options(&self, info: &CommandInfo) -> CallOptions {
        let options = self.handle.options(info);
        CallOptions { timeout: self.timeout.unwrap_or(options.timeout), ..options }
    }

    /// The request's own timeout.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// One guest command, with the timeout and answer limit of its kind.
    pub(crate) async fn call<C: Command>(&self, arguments: C) -> Result<C::Return, Problem> {
        self.call_with(arguments, self.options(&C::INFO)).await
    }

    pub(crate) async fn call_with<C: Command>(
        &self,
        arguments: C,
        options: CallOptions,
    ) -> Result<C::Return, Problem> {
        self.admit(&C::INFO).await?;
        self.try_call(arguments, options).await.map_err(|e| self.failed(&C::INFO, e))
    }

    /// Notes the guest command for the log.
    pub(crate) fn sends(&self, command: &'static str) {
        self.context.sends(command);
    }

    /// Times a guest command for the trace, until what this gives is dropped.
    pub(crate) fn time(&self, info: &CommandInfo) -> Option<TimedCall> {
        self.context.time(info.name)
    }

    /// As [`call`](Self::call), for a handler that makes something else of an error.
    pub(crate) async fn try_call<C: Command>(
        &self,
        arguments: C,
        options: CallOptions,
    ) -> Result<C::Return, CallError> {
        self.context.sends(C::INFO.name);
        let _timed = self.time(&C::INFO);
        self.handle.call(arguments, options).await
    }

    pub(crate) fn failed(&self, info: &CommandInfo, error: CallError) -> Problem {
        guest::call_failed(&self.handle, info, self.lease().is_some(), error)
    }

    /// The lease that holds the VM.
    pub(crate) fn lease(&self) -> Option<Lease> {
        self.app.leases.active_on(self.handle.id())
    }
}

pub(super) fn vm_not_found(id: &str) -> Problem {
    match id.parse::<VmId>() {
        Ok(id) => Problem::new(
            Code::VmNotFound,
            format!("The gateway knows no VM \"{id}\". GET /vms lists those that it knows."),
        )
        .vm(&id),
        Err(why) => Problem::new(
            Code::VmNotFound,
            format!("\"{}\" names no VM: it is {why}.", super::error::printable(id)),
        ),
    }
}

pub(crate) fn lease_not_found(id: &str) -> Problem {
    Problem::new(
        Code::LeaseNotFound,
        format!(
            "The gateway knows no freeze lease \"{}\". GET /freezes lists those that it knows; \
             those that have ended are forgotten after some days.",
            super::error::printable(id)
        ),
    )
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Caller").field(self.principal()).finish()
    }
}
