//! `/vms/{id}/wait`: a long poll until a VM is as somebody needs it.

use std::net::IpAddr;
use std::time::Duration;

use axum::Json;
use qga_proto::command::{
    Command as _, GuestNetworkGetInterfaces, GuestPing, NetworkInterface, Right,
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, timeout_at};
use utoipa::ToSchema;

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm, vm_not_found};
use super::document::CALL_PROBLEMS;
use super::error::{Code, Problem};
use super::extract::{Path, Query};
use super::vms::LinkBody;
use crate::config::Mode;
use crate::vm::LinkState;

/// How long to wait, if the caller does not say.
const DEFAULT: Duration = Duration::from_secs(30);

/// How often a guest is asked for what it does not tell by itself.
const GENTLY: Duration = Duration::from_secs(2);

/// How often it is looked for what the gateway knows and nothing tells.
const OFTEN: Duration = Duration::from_millis(100);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum Condition {
    /// The guest agent answers.
    Agent,
    /// An interface has an address that is neither loopback nor link-local.
    Address,
    /// The guest is frozen.
    Frozen,
    /// The guest agent answers, nothing is frozen, and no lease is under way.
    Thawed,
    /// The guest agent does not answer any more.
    Gone,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WaitQuery {
    r#for: Condition,
    timeout_seconds: Option<f64>,
}

/// What came of the wait.
#[derive(Debug, Serialize, ToSchema)]
#[schema(example = json!({
    "for": "address",
    "met": true,
    "addresses": ["192.0.2.7"],
    "link": {"state": "ready", "reason": null, "since": "2026-11-22T09:15:04.250Z"}
}))]
pub(super) struct WaitBody {
    r#for: Condition,
    /// Whether it is so. If not, the time was over: ask again.
    met: bool,
    /// With `address`: the addresses, in the guest's order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    addresses: Option<Vec<String>>,
    /// The link, as it is at the end.
    link: LinkBody,
}

/// Wait until a VM is as it should be
///
/// Answers as soon as it is so, at once if it is already. When the time is over the answer is the same
/// with `met` as false, and no problem: nothing went wrong. Of its link and its leases the gateway
/// knows by itself; for addresses it asks the guest every two seconds. A VM that the gateway does not
/// know, or no more, is `vm_not_found`; who loses the right meanwhile is refused at once.
#[utoipa::path(
    get,
    path = "/vms/{id}/wait",
    tag = "vms",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("for" = Condition, Query, description = "What to wait for.", example = "address"),
        ("timeout_seconds" = Option<f64>, Query, description = "How long; 30 if absent, at most 3600 unless configured otherwise.", example = 30, exclusive_minimum = 0),
    ),
    responses((status = 200, description = "It is so, or the time is over.", body = WaitBody)),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-command" = json!("guest-network-get-interfaces, for addresses")),
        ("x-qga-problems" = json!([CALL_PROBLEMS, &[Code::ShuttingDown]].concat())),
    )
)]
pub(super) async fn wait_for_vm(
    caller: Caller,
    Path(id): Path<String>,
    Query(WaitQuery { r#for, timeout_seconds }): Query<WaitQuery>,
) -> Result<Json<WaitBody>, Problem> {
    let bound = CallTimeout::checked(caller.app(), timeout_seconds)?.get().unwrap_or(DEFAULT);
    let vm = caller.vm(&id, Right::Observe)?;
    let until = Instant::now() + bound;
    let mut wait = Wait { vm: &vm, condition: r#for, addresses: None };
    let may = |caller: &Caller| caller.still_may(&vm.handle, Right::Observe);
    let met = tokio::select! {
        met = timeout_at(until, wait.until_met()) => met.unwrap_or(Ok(false))?,
        // Nothing of what came of it is for who may not ask for it now.
        refusal = caller.refused(may) => return Err(refusal),
        () = caller.app().stopping.cancelled() => {
            let detail = "The gateway is stopping, so it does not wait any longer.";
            return Err(Problem::new(Code::ShuttingDown, detail).retry_after(5));
        }
    };
    caller.still(may)?;
    let addresses = wait.addresses.filter(|_| r#for == Condition::Address);
    Ok(Json(WaitBody { r#for, met, addresses, link: vm.handle.link().into() }))
}

struct Wait<'a> {
    vm: &'a Vm,
    condition: Condition,
    /// As last heard of.
    addresses: Option<Vec<String>>,
}

impl Wait<'_> {
    async fn until_met(&mut self) -> Result<bool, Problem> {
        let vm = self.vm;
        let mut link = vm.handle.link_changes();
        loop {
            if vm.handle.is_closed() {
                // A VM that is gone answers nothing; of another condition there is no hope.
                let gone = self.condition == Condition::Gone;
                return if gone { Ok(true) } else { Err(vm_not_found(vm.handle.id().as_str())) };
            }
            let state = link.borrow_and_update().state;
            if self.is_met(state).await? {
                return Ok(true);
            }
            let pause = match self.condition {
                // The lease ends a moment after the guest has said that it is thawed.
                Condition::Thawed if state == LinkState::Ready => OFTEN,
                _ => GENTLY,
            };
            tokio::select! {
                _ = link.changed() => {}
                () = sleep(pause) => self.nudge().await,
            }
        }
    }

    async fn is_met(&mut self, state: LinkState) -> Result<bool, Problem> {
        Ok(match self.condition {
            Condition::Agent => state.answers(),
            Condition::Gone => !state.answers(),
            Condition::Frozen => state == LinkState::Frozen,
            // What a link says of a freeze may be old: `is_frozen` asks.
            Condition::Thawed => {
                state.answers() && self.vm.lease().is_none() && !self.vm.is_frozen().await
            }
            Condition::Address => state == LinkState::Ready && self.has_address().await?,
        })
    }

    async fn has_address(&mut self) -> Result<bool, Problem> {
        // All who wait for this VM share an answer.
        let read =
            self.vm.read::<GuestNetworkGetInterfaces, Vec<NetworkInterface>>(Some(GENTLY / 2));
        let interfaces: Vec<NetworkInterface> = match read.await {
            // Written by this gateway a moment ago.
            Ok(snapshot) => serde_json::from_slice(&snapshot.body).unwrap_or_default(),
            // It may come: a guest that starts answers late, or its agent is restarted.
            Err(problem) if problem.may_pass() => return Ok(false),
            Err(problem) => return Err(problem),
        };
        let addresses = interfaces.into_iter().flat_map(|i| i.ip_addresses.unwrap_or_default());
        let addresses: Vec<String> =
            addresses.map(|address| address.ip_address).filter(|text| reaches_out(text)).collect();
        let any = !addresses.is_empty();
        self.addresses = Some(addresses);
        Ok(any)
    }

    /// Nothing tells of a guest whose socket is left to others between calls, nor of one that
    /// falls silent without closing it, but a call.
    async fn nudge(&self) {
        let handle = &self.vm.handle;
        if handle.mode() == Mode::OnDemand || self.condition == Condition::Gone {
            // What comes of it, the link shows.
            let _ = handle.call(GuestPing {}, handle.options(&GuestPing::INFO)).await;
        }
    }
}

/// Whether somebody outside of the guest could use that address.
fn reaches_out(text: &str) -> bool {
    match text.parse() {
        Ok(IpAddr::V4(ip)) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_unspecified() || ip.is_multicast())
        }
        Ok(IpAddr::V6(ip)) => {
            let local = ip.is_loopback() || ip.is_unicast_link_local();
            !(local || ip.is_unspecified() || ip.is_multicast())
        }
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_reached_is_an_address() {
        for good in ["192.0.2.7", "10.0.0.1", "2001:db8::1", "fd00::1"] {
            assert!(reaches_out(good), "{good}");
        }
        for bad in [
            "127.0.0.1",
            "127.1.2.3",
            "169.254.1.1",
            "::1",
            "fe80::1",
            "0.0.0.0",
            "::",
            "ff02::1",
            "x",
            "",
        ] {
            assert!(!reaches_out(bad), "{bad}");
        }
    }
}
