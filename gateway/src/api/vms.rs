//! `/vms`: what the gateway knows without asking a guest.

use std::collections::BTreeMap;

use axum::Json;
use qga_proto::command::{AgentCommand, Right};
use serde::Serialize;
use utoipa::ToSchema;

use super::caller::{Caller, Vm};
use super::error::{Problem, printable};
use super::extract::{NoQuery, Path};
use super::lease::LeaseBody;
use super::mirror::mirror;
use super::time::Timestamp;
use crate::vm::{Lease, LinkStatus, VmHandle};

mirror! {
    /// The state of the link to a VM's guest agent.
    LinkState as LinkStateBody {
        /// There is no socket: the VM probably is not running.
        Absent,
        /// The socket takes no connection.
        Refused,
        /// Another client holds the socket.
        Busy,
        /// Connected, but no answer to a sync.
        Silent,
        /// The agent answers.
        Ready,
        /// The agent answers, and says that filesystems are frozen.
        Frozen,
        /// The VM is paused.
        Paused,
    }
}

/// The link to a VM's guest agent.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Link)]
pub(crate) struct LinkBody {
    state: LinkStateBody,
    /// Why, for a person.
    #[schema(required)]
    reason: Option<String>,
    since: Timestamp,
}

impl From<LinkStatus> for LinkBody {
    fn from(link: LinkStatus) -> Self {
        Self {
            state: link.state.into(),
            reason: link.reason.as_deref().map(printable),
            since: link.since.into(),
        }
    }
}

/// A VM's guest agent, as its last `guest-info` outside a freeze described it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Agent)]
pub(super) struct AgentBody {
    /// The agent's own version.
    #[schema(example = "11.1.3")]
    version: String,
}

/// A VM.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Vm)]
pub(super) struct VmBody {
    #[schema(example = "web-1")]
    id: String,
    /// From the gateway's configuration.
    labels: BTreeMap<String, String>,
    link: LinkBody,
    /// `null` until the agent was heard of.
    #[schema(required)]
    agent: Option<AgentBody>,
    /// The active freeze lease, if there is one.
    #[schema(required)]
    freeze: Option<LeaseBody>,
}

/// What a VM's guest agent can do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Capabilities)]
pub(super) struct CapabilitiesBody {
    /// The agent's own list; `null` for agents before QEMU 1.1, which have none.
    #[schema(required)]
    commands: Option<Vec<AgentCommand>>,
    /// Whether replies carry the id of their request.
    echoes_id: bool,
    /// Whether the agent has `guest-sync-delimited`.
    delimited_sync: bool,
}

/// A VM with its agent's capabilities.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VmDetail {
    #[serde(flatten)]
    vm: VmBody,
    /// `null` until the agent was heard of.
    #[schema(required)]
    capabilities: Option<CapabilitiesBody>,
}

/// All VMs that the gateway knows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VmList {
    /// Ordered by id.
    vms: Vec<VmBody>,
}

fn describe(vm: &VmHandle, lease: Option<Lease>) -> VmBody {
    VmBody {
        id: vm.id().to_string(),
        labels: vm.labels().clone(),
        link: vm.link().into(),
        agent: vm.capabilities().map(|c| AgentBody { version: printable(&c.version) }),
        freeze: lease.map(LeaseBody::from),
    }
}

/// List the VMs
///
/// From what the gateway knows: no guest is asked.
#[utoipa::path(
    get,
    path = "/vms",
    tag = "vms",
    responses((status = 200, description = "The VMs, by id.", body = VmList)),
    extensions(("x-qga-right" = json!(Right::Observe)))
)]
pub(super) async fn list_vms(caller: Caller, _: NoQuery) -> Json<VmList> {
    let app = caller.app();
    let visible = |vm: &VmHandle| caller.authorise(vm.id(), Right::Observe).is_ok();
    let vms = app.registry.list().into_iter().filter(visible);
    Json(VmList { vms: vms.map(|vm| describe(&vm, app.leases.active_on(vm.id()))).collect() })
}

/// Show a VM
///
/// Its link, agent, capabilities and freeze lease, from what the gateway knows: the guest is not
/// asked.
#[utoipa::path(
    get,
    path = "/vms/{id}",
    tag = "vms",
    params(("id" = String, Path, description = "The VM.", example = "web-1")),
    responses((status = 200, description = "The VM.", body = VmDetail)),
    extensions(
        ("x-qga-right" = json!(Right::Observe)),
        ("x-qga-problems" = json!(["vm_not_found"])),
    )
)]
pub(super) async fn show_vm(
    caller: Caller,
    Path(id): Path<String>,
    _: NoQuery,
) -> Result<Json<VmDetail>, Problem> {
    let Vm { handle, .. } = caller.vm(&id, Right::Observe)?;
    let lease = caller.app().leases.active_on(handle.id());
    let capabilities = handle.capabilities().map(|c| CapabilitiesBody {
        commands: c.commands.clone(),
        echoes_id: c.echoes_id,
        delimited_sync: c.delimited_sync,
    });
    Ok(Json(VmDetail { vm: describe(&handle, lease), capabilities }))
}
