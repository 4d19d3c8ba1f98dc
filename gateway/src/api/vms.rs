//! `/vms`: what the gateway knows without asking a guest.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use qga_proto::command::{
    AgentCommand, Command as _, CommandInfo, GuestGetHostName, GuestGetOsinfo, HostName, OsInfo,
    Right,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::caller::{Caller, Vm};
use super::error::{Problem, printable};
use super::extract::{NoQuery, Path};
use super::lease::LeaseBody;
use super::mirror::mirror;
use super::page_of_vms::Page;
use super::time::Timestamp;
use crate::printable::label;
use crate::vm::{LinkStatus, VmHandle};

/// Longer than any system's honest answer about its name. A guest whose answer is longer must not make
/// a list of all VMs slow.
const HONEST: usize = 16 << 10;

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

/// What a guest said of itself when somebody asked it last (`GET /vms/{id}/hostname`, `…/os`).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Guest)]
pub(super) struct GuestBody {
    /// Untrusted, as `os`: cut at 128 characters, control characters escaped.
    #[schema(required, example = "web-1")]
    host_name: Option<String>,
    /// The operating system's name with its version; if it has none, the kernel's version.
    #[schema(required, example = "Debian GNU/Linux 13 (trixie)")]
    os: Option<String>,
    /// How many seconds ago it said so; of the two, the older one.
    #[schema(example = 42)]
    age_seconds: u64,
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
    /// `null` if nothing is kept of what it said: nobody has asked, not for long, or the guest has
    /// changed since.
    #[schema(required)]
    guest: Option<GuestBody>,
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
    /// Those of its commands that only `qga-agent` has and that are enabled.
    extensions: Vec<String>,
    /// Whether the guest is Windows, whose shadow copies hold a freeze for 10 seconds.
    windows: bool,
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

/// VMs that the gateway knows.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VmList {
    /// Ordered by id.
    vms: Vec<VmBody>,
    /// For `after`, where there are more; `null` at the end.
    #[schema(required)]
    next: Option<String>,
}

fn describe(caller: &Caller, vm: &VmHandle) -> VmBody {
    let lease = caller.app().leases.active_on(vm.id());
    VmBody {
        id: vm.id().to_string(),
        labels: (*vm.labels()).clone(),
        link: vm.link().into(),
        agent: vm.capabilities().map(|c| AgentBody { version: printable(&c.version) }),
        guest: said(vm),
        freeze: lease.map(|lease| caller.part_of(lease)),
    }
}

fn said(vm: &VmHandle) -> Option<GuestBody> {
    let name = kept::<HostName>(vm, &GuestGetHostName::INFO);
    let os = kept::<OsInfo>(vm, &GuestGetOsinfo::INFO);
    let ages = [name.as_ref().map(|(_, age)| *age), os.as_ref().map(|(_, age)| *age)];
    Some(GuestBody {
        age_seconds: ages.into_iter().flatten().max()?,
        host_name: name.map(|(name, _)| label(&name.host_name)),
        os: os
            .and_then(|(os, _)| os.pretty_name.or(os.name).or(os.kernel_version))
            .map(|os| label(&os)),
    })
}

/// What is kept of an earlier answer, and its age in seconds. That it is looked at here is no reason to
/// keep it for longer.
fn kept<T: DeserializeOwned>(vm: &VmHandle, info: &CommandInfo) -> Option<(T, u64)> {
    let snapshot = vm.peek(info).filter(|snapshot| snapshot.body.len() <= HONEST)?;
    Some((serde_json::from_slice(&snapshot.body).ok()?, snapshot.age().as_secs()))
}

/// List the VMs
///
/// From what the gateway knows: no guest is asked; `guest` is what one said to whoever asked it. In the order of their ids, a page at a time; `next`
/// and the header `Link` lead to the following one. VMs that come or go meanwhile move no others.
#[utoipa::path(
    get,
    path = "/vms",
    tag = "vms",
    params(
        ("limit" = Option<usize>, Query, description = "How many at most, from 1 to 10000; 1000 if absent.", example = 1000, minimum = 1, maximum = 10000),
        ("after" = Option<String>, Query, description = "Only those behind this id: `next` of the page before."),
        ("state" = Option<Vec<LinkStateBody>>, Query, description = "Only those whose link is in this state. May be repeated.", example = json!(["ready"])),
        ("label" = Option<Vec<String>>, Query, description = "Only those with this label, as `key=value`. If repeated, with all of them.", example = json!(["tier=web"])),
    ),
    responses((
        status = 200,
        description = "The VMs, by id.",
        body = VmList,
        headers(("link" = String, description = "`<…>; rel=\"next\"`, where there are more"))
    )),
    extensions(("x-qga-right" = json!(Right::Observe)))
)]
pub(super) async fn list_vms(caller: Caller, page: Page) -> Response {
    let app = caller.app();
    let wanted =
        |vm: &VmHandle| caller.may(vm, Right::Observe) && page.wants(&vm.labels(), &vm.link());
    let mut found = app.registry.list_after(page.after.as_deref()).into_iter().filter(wanted);
    let vms: Vec<_> = found.by_ref().take(page.limit).map(|vm| describe(&caller, &vm)).collect();
    let more = found.next().is_some();
    let next = vms.last().filter(|_| more).map(|last| last.id.clone());
    let link = next.as_deref().map(|next| [(header::LINK, page.link(next))]);
    (link, Json(VmList { vms, next })).into_response()
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
    let capabilities = handle.capabilities().map(|c| CapabilitiesBody {
        commands: c.commands.clone(),
        echoes_id: c.echoes_id,
        delimited_sync: c.delimited_sync,
        extensions: c.extensions().map(printable).collect(),
        windows: c.windows(),
    });
    Ok(Json(VmDetail { vm: describe(&caller, &handle), capabilities }))
}
