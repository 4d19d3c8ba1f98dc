//! Who calls, and the only way for a handler to a VM or a lease: by naming the right it needs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use qga_proto::command::{Command, CommandInfo, Right};

use super::App;
use super::call_timeout::CallTimeout;
use super::context::RequestContext;
use super::error::{Code, Problem, guest};
use crate::principal::Principal;
use crate::vm::{CallError, CallOptions, Lease, Leases, VmHandle, VmId};

/// An authenticated caller of one request.
pub(crate) struct Caller {
    app: App,
    context: Arc<RequestContext>,
    principal: Principal,
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let context = parts.extensions.get::<Arc<RequestContext>>().cloned();
        let principal = context.as_ref().and_then(|c| c.principal.clone());
        // The front lets nobody through without a principal, save to the public operations.
        let (Some(context), Some(principal)) = (context, principal) else {
            return Err(unauthenticated());
        };
        Ok(Self { app: app.clone(), context, principal })
    }
}

pub(crate) fn unauthenticated() -> Problem {
    Problem::new(
        Code::Unauthenticated,
        "Over TCP every request needs the header \"Authorization: Bearer TOKEN\" with the token \
         from the gateway's token file. Over the Unix socket no token is needed.",
    )
}

impl Caller {
    pub(crate) fn principal(&self) -> &Principal {
        &self.principal
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
        self.authorise(vm.id(), right)?;
        let (app, context) = (self.app.clone(), self.context.clone());
        Ok(Vm { app, context, handle: vm, timeout: None })
    }

    /// The lease of this id, for an operation that needs `right` on each of its VMs.
    pub(crate) fn lease(&self, id: &str, right: Right) -> Result<Lease, Problem> {
        let lease = id.parse().ok().and_then(|id| self.app.leases.get(&id));
        let lease = lease.ok_or_else(|| lease_not_found(id))?;
        for member in &lease.members {
            self.context.concerns(&member.vm);
            self.authorise(&member.vm, right)?;
        }
        Ok(lease)
    }

    /// Refuses to renew or end a lease that is somebody else's, unless the caller insists and may.
    pub(crate) fn owns(&self, lease: &Lease, force: bool) -> Result<(), Problem> {
        if lease.ended() || lease.owner == self.principal {
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
                lease.id, lease.owner, self.principal
            ),
        )
        .lease(&lease.id))
    }

    /// Every principal that can authenticate today has every right: the Unix socket's peers by
    /// its permissions, the token's holder by the token. Rules per principal and VM go here.
    #[expect(clippy::unnecessary_wraps, reason = "rights per principal will refuse here")]
    pub(crate) fn authorise(&self, _vm: &VmId, _right: Right) -> Result<(), Problem> {
        Ok(())
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

    /// As [`call`](Self::call), for a handler that makes something else of an error.
    pub(crate) async fn try_call<C: Command>(
        &self,
        arguments: C,
        options: CallOptions,
    ) -> Result<C::Return, CallError> {
        self.context.sends(C::INFO.name);
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
        f.debug_tuple("Caller").field(&self.principal).finish()
    }
}
