//! `?dry_run=true`: what a freeze would freeze.

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::call_timeout::CallTimeout;
use super::caller::Vm;
use super::error::{Problem, ProblemBody, printable};
use super::lease::{OrderBody, PolicyBody};
use crate::vm::{FreezeError, FreezeRequest, LeftOut, Prospect, preview};

/// Whether the freeze is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    #[serde(default)]
    dry_run: bool,
    timeout_seconds: Option<f64>,
}

impl DryRun {
    /// How long the guests may take, if nothing is to be frozen.
    pub(super) fn checked(&self, app: &App) -> Result<Option<CallTimeout>, Problem> {
        if !self.dry_run && self.timeout_seconds.is_some() {
            return Err(Problem::bad_request(
                "Query parameter \"timeout_seconds\" goes with \"dry_run\" only: how long a freeze \
                 may take is the body's \"freeze_timeout_seconds\". Nothing was sent.",
            ));
        }
        let timeout = CallTimeout::checked(app, self.timeout_seconds)?;
        Ok(self.dry_run.then_some(timeout))
    }
}

/// What `timeout_seconds` means there.
pub(super) const DRY_RUN_TIMEOUT: &str = "\
With `dry_run`: how long a guest may take, at most 3600 unless configured otherwise. A freeze has \
`freeze_timeout_seconds` instead, and is refused with this.";

/// What a freeze would freeze, as far as the guest tells without one.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FreezePreview, example = json!({
    "vm_id": "web-1",
    "policy": "required",
    "filesystems": [
        {"mountpoint": "/", "type": "ext4", "would_freeze": true, "reason": null},
        {"mountpoint": "/boot/efi", "type": "vfat", "would_freeze": false,
         "reason": "filesystems of type vfat cannot freeze"},
    ],
    "skipped": [],
}))]
pub(super) struct PreviewBody {
    vm_id: String,
    policy: PolicyBody,
    /// Everything that the guest lists as mounted.
    filesystems: Vec<ProspectBody>,
    /// What is named and no mount point; with `required` it is refused, as the freeze is.
    skipped: Vec<String>,
}

/// What would become of one filesystem.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FreezeProspect)]
pub(super) struct ProspectBody {
    mountpoint: String,
    /// As `ext4`.
    #[serde(rename = "type")]
    fs_type: String,
    /// By its type and what is named. Guests do not list what is mounted read-only as such: it
    /// freezes or is passed over, and holds in either case.
    would_freeze: bool,
    /// Why it would not.
    #[schema(required)]
    reason: Option<String>,
}

impl From<Prospect> for ProspectBody {
    fn from(prospect: Prospect) -> Self {
        let fs_type = printable(&prospect.fs_type);
        let reason = prospect.left_out.map(|why| match why {
            LeftOut::NotNamed => "\"mountpoints\" does not name it".to_owned(),
            LeftOut::CannotFreeze => format!("filesystems of type {fs_type} cannot freeze"),
        });
        Self {
            mountpoint: printable(&prospect.mountpoint),
            fs_type,
            would_freeze: reason.is_none(),
            reason,
        }
    }
}

impl PreviewBody {
    /// Asks the guest, for as long as the request allows.
    pub(super) async fn ask(vm: &Vm, request: &FreezeRequest) -> Result<Self, FreezeError> {
        if let Some(active) = vm.lease() {
            return Err(FreezeError::AlreadyFrozen { lease: Some(active.id) });
        }
        let (named, policy) = (request.mountpoints.as_deref(), request.policy);
        let preview = preview(&vm.handle, named, policy, vm.timeout()).await?;
        Ok(Self {
            vm_id: vm.handle.id().to_string(),
            policy: policy.into(),
            filesystems: preview.filesystems.into_iter().map(Into::into).collect(),
            skipped: preview.unknown.iter().map(|name| printable(name)).collect(),
        })
    }
}

/// What a freeze of several VMs would freeze.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FreezesPreview)]
pub(super) struct GroupPreviewBody {
    /// Whether a lease would come of it: every VM can be frozen, or without `all_or_nothing` one.
    would_freeze: bool,
    policy: PolicyBody,
    order: OrderBody,
    all_or_nothing: bool,
    /// The VMs, in their order.
    members: Vec<MemberPreviewBody>,
}

/// What would become of one VM of several.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FreezePreviewMember)]
pub(super) struct MemberPreviewBody {
    vm_id: String,
    /// Everything that the guest lists as mounted; none if the VM cannot be frozen.
    filesystems: Vec<ProspectBody>,
    /// What is named and no mount point.
    skipped: Vec<String>,
    /// What stands in the way: as a freeze of this VM alone would be answered.
    #[schema(required)]
    problem: Option<ProblemBody>,
}

impl GroupPreviewBody {
    /// Asks all guests at once.
    pub(super) async fn ask(
        vms: &[Vm],
        request: &FreezeRequest,
        problem: impl Fn(&Vm, FreezeError) -> Problem,
    ) -> Self {
        let asked = join_all(vms.iter().map(|vm| PreviewBody::ask(vm, request))).await;
        let could = asked.iter().filter(|asked| asked.is_ok()).count();
        let member = |(vm, asked): (&Vm, Result<PreviewBody, FreezeError>)| {
            let vm_id = vm.handle.id().to_string();
            match asked {
                Ok(PreviewBody { filesystems, skipped, .. }) => {
                    MemberPreviewBody { vm_id, filesystems, skipped, problem: None }
                }
                Err(error) => {
                    let problem = Some(problem(vm, error).into_body());
                    MemberPreviewBody { vm_id, filesystems: vec![], skipped: vec![], problem }
                }
            }
        };
        Self {
            would_freeze: could == vms.len() || !request.all_or_nothing && could > 0,
            policy: request.policy.into(),
            order: request.order.into(),
            all_or_nothing: request.all_or_nothing,
            members: vms.iter().zip(asked).map(member).collect(),
        }
    }
}
