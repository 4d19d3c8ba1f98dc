//! What a guest says of itself: one GET per `guest-get-…` command, from one table.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::Response;
use qga_proto::command::{
    AgentInfo, Command, CpuStats, DeviceInfo, Disk, DiskStatsInfo, FilesystemInfo,
    GuestGetCpustats, GuestGetDevices, GuestGetDisks, GuestGetDiskstats, GuestGetFsinfo,
    GuestGetHostName, GuestGetLoad, GuestGetMemoryBlockInfo, GuestGetMemoryBlocks, GuestGetOsinfo,
    GuestGetTime, GuestGetTimezone, GuestGetUsers, GuestGetVcpus, GuestInfo,
    GuestNetworkGetInterfaces, GuestNetworkGetRoute, HostName, LoadAverage, LogicalProcessor,
    MemoryBlock, MemoryBlockInfo, NetworkInterface, NetworkRoute, OsInfo, Right, Timezone, User,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::App;
use super::call_timeout::CallTimeout;
use super::caller::{Caller, Vm};
use super::conditions::{Conditions, Freshness};
use super::document::CALL_PROBLEMS;
use super::error::{Code, Problem};
use super::extract::Path;
use crate::vm::{Snapshot, translate};

/// A guest's clock, as `PUT` on the same path takes it.
#[derive(Debug, Deserialize, Serialize, ToSchema)]
#[schema(as = GuestTime)]
pub(super) struct TimeBody {
    /// Nanoseconds since 1970 UTC.
    time: i64,
}

impl From<i64> for TimeBody {
    fn from(time: i64) -> Self {
        Self { time }
    }
}

/// A request for something that a guest says of itself.
pub(super) struct Read {
    vm: Vm,
    conditions: Conditions,
}

impl FromRequestParts<App> for Read {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let Path(id) = Path::<String>::from_request_parts(parts, app).await?;
        let timeout = CallTimeout::from_request_parts(parts, app).await?;
        let conditions = Conditions::of(&parts.headers)?;
        Ok(Self { vm: caller.vm(&id, Right::Observe)?.within(timeout), conditions })
    }
}

impl Read {
    async fn answer<C, B>(self) -> Result<Response, Problem>
    where
        C: Command,
        B: From<C::Return> + Serialize,
    {
        let read = self.vm.read::<C, B>(self.conditions.max_age).await;
        match read {
            Ok(snapshot) => Ok(self.conditions.answer(&snapshot, Freshness::AsAsked)),
            // Frozen, the guest says nothing: what it said before is better than nothing.
            Err(problem) if problem.code() == Code::VmFrozen => {
                let known = self.vm.handle.known(&C::INFO).ok_or(problem)?;
                Ok(self.conditions.answer(&known, Freshness::Frozen))
            }
            Err(problem) => Err(problem),
        }
    }
}

impl Vm {
    /// Has a read answered by the guest, or by an answer of at most that age.
    pub(super) async fn read<C, B>(
        &self,
        max_age: Option<Duration>,
    ) -> Result<Arc<Snapshot>, Problem>
    where
        C: Command,
        B: From<C::Return> + Serialize,
    {
        let info = const { &C::INFO };
        self.sends(info.name);
        let young = |known: &Arc<Snapshot>| max_age.is_some_and(|max_age| known.age() <= max_age);
        if let Some(known) = self.handle.known(info).filter(young) {
            return Ok(known);
        }
        self.admit(info).await?;
        let _timed = self.time(info);
        let read = self.handle.read(info, self.options(info), max_age, translate::<C, B>).await;
        read.map_err(|error| self.failed(info, error))
    }
}

/// Declares the reads: path, command, what the answer is, and how one looks.
macro_rules! reads {
    ($(
        $(#[doc = $doc:literal])*
        $handler:ident $tag:literal $path:literal: $name:literal $command:ident => $body:ty,
        $example:tt;
    )+) => {
        $(
            $(#[doc = $doc])*
            #[utoipa::path(
                get,
                path = $path,
                tag = $tag,
                params(
                    ("id" = String, Path, description = "The VM.", example = "web-1"),
                    CallTimeout,
                    ("cache-control" = Option<String>, Header, description = "With `max-age=N`, an answer that the guest gave at most N seconds ago is good enough.", example = "max-age=10"),
                    ("if-none-match" = Option<String>, Header, description = "Tags of answers that the caller has."),
                ),
                responses(
                    (
                        status = 200,
                        description = "What the guest says.",
                        body = $body,
                        headers(
                            ("age" = u64, description = "How many seconds ago the guest said so."),
                            ("etag" = String, description = "The same for the same answer."),
                            ("x-qga-stale" = String, description = "`frozen`, where the guest is frozen and this is what it said before.")
                        ),
                        example = json!($example)
                    ),
                    (
                        status = 304,
                        description = "It still says what the caller has.",
                        headers(
                            ("age" = u64, description = "How many seconds ago the guest said so."),
                            ("etag" = String, description = "The answer's tag."),
                            ("x-qga-stale" = String, description = "As with 200.")
                        )
                    ),
                ),
                extensions(
                    ("x-qga-right" = json!(Right::Observe)),
                    ("x-qga-command" = json!($name)),
                    ("x-qga-problems" = json!(CALL_PROBLEMS)),
                )
            )]
            async fn $handler(read: Read) -> Result<Response, Problem> {
                read.answer::<$command, $body>().await
            }
        )+

        /// All of them.
        pub(super) fn routes() -> OpenApiRouter<App> {
            OpenApiRouter::new()$(.routes(routes!($handler)))+
        }

        #[cfg(test)]
        mod tests {
            use super::*;

            #[test]
            fn the_table_names_each_command_as_it_is_called() {
                $(assert_eq!($name, $command::INFO.name);)+
            }
        }
    };
}

reads! {
    /// Ask the guest agent about itself
    ///
    /// Version and commands: `guest-info`. While the VM is frozen, most commands are shown as
    /// disabled; `capabilities` in `GET /vms/{id}` keeps the list from before.
    show_agent "agent" "/vms/{id}/agent": "guest-info" GuestInfo => AgentInfo, {
        "version": "11.1.3",
        "supported_commands": [
            {"name": "guest-ping", "enabled": true, "success-response": true}
        ]
    };

    /// List the mounted filesystems
    ///
    /// `guest-get-fsinfo`: those on disks, with sizes and the disks that they lie on.
    list_filesystems "guest" "/vms/{id}/filesystems": "guest-get-fsinfo"
        GuestGetFsinfo => Vec<FilesystemInfo>, [{
        "name": "vda1", "mountpoint": "/", "type": "ext4",
        "used-bytes": 1503238553u64, "total-bytes": 20957446144u64,
        "disk": [{
            "pci-controller": {"domain": 0, "bus": 4, "slot": 0, "function": 0},
            "bus-type": "virtio", "bus": 0, "target": 0, "unit": 0, "dev": "/dev/vda1"
        }]
    }];

    /// List the disks and partitions
    ///
    /// `guest-get-disks`.
    list_disks "guest" "/vms/{id}/disks": "guest-get-disks" GuestGetDisks => Vec<Disk>, [
        {"name": "/dev/vda", "partition": false, "dependencies": []},
        {"name": "/dev/vda1", "partition": true, "dependencies": ["/dev/vda"]}
    ];

    /// List the disks' counters
    ///
    /// `guest-get-diskstats`. Sectors have 512 bytes, times are in milliseconds.
    list_disk_stats "guest" "/vms/{id}/disk-stats": "guest-get-diskstats"
        GuestGetDiskstats => Vec<DiskStatsInfo>, [{
        "name": "vda", "major": 254, "minor": 0,
        "stats": {"read-ios": 8041, "read-sectors": 603354, "write-ios": 512, "write-sectors": 9904}
    }];

    /// Show the operating system
    ///
    /// `guest-get-osinfo`: what uname and os-release say.
    show_os "guest" "/vms/{id}/os": "guest-get-osinfo" GuestGetOsinfo => OsInfo, {
        "id": "debian", "name": "Debian GNU/Linux", "version-id": "13",
        "kernel-release": "6.12.48+deb13-cloud-amd64", "machine": "x86_64"
    };

    /// Show the host name
    ///
    /// `guest-get-host-name`.
    show_hostname "guest" "/vms/{id}/hostname": "guest-get-host-name"
        GuestGetHostName => HostName, {"host-name": "web-1"};

    /// Show the time zone
    ///
    /// `guest-get-timezone`: the offset is in seconds east of UTC, as it is now.
    show_timezone "guest" "/vms/{id}/timezone": "guest-get-timezone"
        GuestGetTimezone => Timezone, {"zone": "CET", "offset": 3600};

    /// List who is logged in
    ///
    /// `guest-get-users`. Stock agents know nobody on systems without utmp.
    list_users "guest" "/vms/{id}/users": "guest-get-users" GuestGetUsers => Vec<User>, [
        {"user": "root", "login-time": 1763803200.25}
    ];

    /// List the network interfaces
    ///
    /// `guest-network-get-interfaces`: addresses and counters.
    list_interfaces "guest" "/vms/{id}/interfaces": "guest-network-get-interfaces"
        GuestNetworkGetInterfaces => Vec<NetworkInterface>, [{
        "name": "eth0", "hardware-address": "52:54:00:12:34:56",
        "ip-addresses": [
            {"ip-address": "192.0.2.7", "ip-address-type": "ipv4", "prefix": 24}
        ]
    }];

    /// List the routes
    ///
    /// `guest-network-get-route`.
    list_routes "guest" "/vms/{id}/routes": "guest-network-get-route"
        GuestNetworkGetRoute => Vec<NetworkRoute>, [{
        "iface": "eth0", "destination": "0.0.0.0", "gateway": "192.0.2.1", "mask": "0.0.0.0",
        "metric": 100, "version": 4
    }];

    /// Show the load averages
    ///
    /// `guest-get-load`.
    show_load "guest" "/vms/{id}/load": "guest-get-load" GuestGetLoad => LoadAverage,
        {"load1m": 0.12, "load5m": 0.08, "load15m": 0.01};

    /// List the processors' times
    ///
    /// `guest-get-cpustats`, in milliseconds since boot.
    list_cpu_stats "guest" "/vms/{id}/cpu-stats": "guest-get-cpustats"
        GuestGetCpustats => Vec<CpuStats>, [
        {"type": "linux", "cpu": 0, "user": 4210, "nice": 0, "system": 2290, "idle": 913450}
    ];

    /// List the processors
    ///
    /// `guest-get-vcpus`. PATCH takes them on- and offline.
    list_vcpus "guest" "/vms/{id}/vcpus": "guest-get-vcpus"
        GuestGetVcpus => Vec<LogicalProcessor>, [
        {"logical-id": 0, "online": true, "can-offline": false},
        {"logical-id": 1, "online": true, "can-offline": true}
    ];

    /// List the blocks of memory
    ///
    /// `guest-get-memory-blocks`. PATCH takes them on- and offline.
    list_memory_blocks "guest" "/vms/{id}/memory-blocks": "guest-get-memory-blocks"
        GuestGetMemoryBlocks => Vec<MemoryBlock>, [
        {"phys-index": 0, "online": true, "can-offline": false}
    ];

    /// Show how large a block of memory is
    ///
    /// `guest-get-memory-block-info`, in bytes.
    show_memory_block_info "guest" "/vms/{id}/memory-block-info": "guest-get-memory-block-info"
        GuestGetMemoryBlockInfo => MemoryBlockInfo, {"size": 134217728};

    /// Show the guest's clock
    ///
    /// `guest-get-time`, in nanoseconds since 1970 UTC.
    show_time "guest" "/vms/{id}/time": "guest-get-time" GuestGetTime => TimeBody,
        {"time": 1763803200250000000i64};

    /// List the devices and their drivers
    ///
    /// `guest-get-devices`. Only agents on Windows have it; others answer `command_unsupported`.
    list_devices "guest" "/vms/{id}/devices": "guest-get-devices"
        GuestGetDevices => Vec<DeviceInfo>, [{
        "driver-name": "Red Hat VirtIO Ethernet Adapter", "driver-version": "100.95.104.26200",
        "id": {"type": "pci", "vendor-id": 6900, "device-id": 4161}
    }];
}
