//! `?dry_run=true`: what a freeze would freeze.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::caller::Vm;
use super::error::printable;
use super::lease::PolicyBody;
use crate::vm::{FreezeError, FreezeRequest, LeftOut, Prospect, preview};

/// Whether the freeze is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    #[serde(default)]
    pub(super) dry_run: bool,
}

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
    pub(super) async fn ask(vm: &Vm, request: &FreezeRequest) -> Result<Self, FreezeError> {
        if let Some(active) = vm.lease() {
            return Err(FreezeError::AlreadyFrozen { lease: Some(active.id) });
        }
        let preview = preview(&vm.handle, request.mountpoints.as_deref(), request.policy).await?;
        Ok(Self {
            vm_id: vm.handle.id().to_string(),
            policy: request.policy.into(),
            filesystems: preview.filesystems.into_iter().map(Into::into).collect(),
            skipped: preview.unknown.iter().map(|name| printable(name)).collect(),
        })
    }
}
