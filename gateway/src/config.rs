//! The config file: TOML, read whole and checked before any socket opens.
//!
//! ```toml
//! [listen]
//! unix = "/run/qga-gateway/api.sock"
//!
//! [[vm]]
//! id = "web-1"
//! socket = "/run/vms/web-1/qga.sock"
//! labels = { tier = "web" }
//!
//! [[discover]]
//! glob = "/run/qemu-server/*.qga"
//! id = "{stem}"
//! mode = "on-demand"
//! owner_uids = [0]
//!
//! [limits]
//! ttl_max_seconds = 3600
//!
//! [timeouts]
//! thaw_seconds = 180
//! ```

mod cors;
mod external;
mod fields;
mod limits;
mod locate;
mod metrics;
mod restart;
mod secret;
mod telemetry;
mod template;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::audit::AuditConfig;
use crate::rights::{GrantConfig, TokenConfig};
use crate::vm::VmId;

pub use cors::CorsConfig;
pub use external::ExternalFreeze;
pub(crate) use fields::absolute_or_none;
pub use limits::{Limits, Timeouts};
pub use metrics::MetricsConfig;
pub use secret::{NoCredentials, SecretFile};
pub use telemetry::TelemetryConfig;
pub use template::{IdTemplate, LabelTemplate, PathTemplate};
pub use tls::TlsConfig;

/// The gateway's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the API is served.
    pub listen: Listen,
    /// Where leases are kept; `/var/lib/qga-gateway` unless told.
    #[serde(deserialize_with = "fields::absolute")]
    pub state_dir: PathBuf,
    /// VMs with a known socket.
    #[serde(rename = "vm")]
    pub vms: Vec<VmConfig>,
    /// VMs whose QEMU connects to the gateway.
    #[serde(rename = "listen_vm")]
    pub listen_vms: Vec<ListenVmConfig>,
    /// Patterns of sockets that come and go.
    pub discover: Vec<DiscoverConfig>,
    /// Bearer tokens, next to the one in the token file.
    #[serde(rename = "token")]
    pub tokens: Vec<TokenConfig>,
    /// Who may do what.
    #[serde(rename = "grant")]
    pub grants: Vec<GrantConfig>,
    /// Whose pages in browsers may talk to the gateway, besides its own.
    pub cors: CorsConfig,
    /// Who did what goes on record here.
    pub audit: AuditConfig,
    /// Bounds on memory, time and numbers.
    pub limits: Limits,
    /// How long a command of each class may take before its caller gives up.
    pub timeouts: Timeouts,
    /// What figures there are beyond those that cost nothing.
    pub metrics: MetricsConfig,
    /// What is logged, and where traces go.
    pub telemetry: TelemetryConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            state_dir: "/var/lib/qga-gateway".into(),
            vms: Vec::new(),
            listen_vms: Vec::new(),
            discover: Vec::new(),
            tokens: Vec::new(),
            grants: Vec::new(),
            cors: CorsConfig::default(),
            audit: AuditConfig::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            metrics: MetricsConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

/// Where the API is served.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// The Unix socket; `/run/qga-gateway/api.sock` unless told.
    pub unix: PathBuf,
    /// An address, if TCP is wanted too: loopback, or any with `tls`.
    #[serde(deserialize_with = "fields::address")]
    pub tcp: Option<SocketAddr>,
    /// Encrypts TCP.
    pub tls: Option<TlsConfig>,
    /// Serves TCP beyond loopback without TLS: everybody on the way reads tokens and answers.
    pub insecure_tcp: bool,
    /// Where the bearer token for TCP is kept; a file is made if it is missing, a credential is not.
    pub token_file: SecretFile,
    /// Names accepted in `Host`, next to the loopback ones.
    pub allowed_hosts: Vec<String>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            unix: "/run/qga-gateway/api.sock".into(),
            tcp: None,
            tls: None,
            insecure_tcp: false,
            token_file: SecretFile::Path("/run/qga-gateway/token".into()),
            allowed_hosts: Vec::new(),
        }
    }
}

impl Listen {
    fn contradiction(&self) -> Option<(String, String)> {
        let says = |key: &str, cause: String| Some((format!("listen.{key}"), cause));
        let Some(address) = self.tcp else {
            let unused = self.tls.is_some();
            return unused.then(|| says("tls", "needs listen.tcp".into())).flatten();
        };
        if self.tls.is_none() && !address.ip().is_loopback() && !self.insecure_tcp {
            let cause = format!(
                "{address} is not a loopback address: it needs [listen.tls], or insecure_tcp = true \
                 where something else encrypts"
            );
            return says("tcp", cause);
        }
        let tls = self.tls.as_ref()?;
        if tls.client_certificate_required && tls.client_ca.is_none() {
            return says("tls.client_certificate_required", "needs client_ca".into());
        }
        None
    }
}

/// One VM with a known socket.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// The VM's id.
    pub id: VmId,
    /// The chardev's socket.
    #[serde(deserialize_with = "fields::absolute")]
    pub socket: PathBuf,
    /// Labels, for selectors and for people.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// When the gateway holds the socket.
    #[serde(default)]
    pub mode: Mode,
    /// Users as whom the socket's listener may run; empty for any.
    #[serde(default)]
    pub owner_uids: Vec<u32>,
    /// QEMU's QMP socket, a monitor that nobody else uses: it serves one client.
    #[serde(default, deserialize_with = "fields::absolute_or_none")]
    pub qmp: Option<PathBuf>,
    /// Use the channel that libvirt keeps for itself all the same.
    #[serde(default)]
    pub libvirt_channel: bool,
    /// What becomes of the VM if somebody else freezes it.
    #[serde(default)]
    pub external_freeze: ExternalFreeze,
    /// The gateway listens on the socket, and QEMU connects: a [`ListenVmConfig`].
    #[serde(skip)]
    pub listens: bool,
}

/// A VM whose chardev is in client mode: QEMU connects to a socket that the gateway makes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenVmConfig {
    /// The VM's id.
    pub id: VmId,
    /// The socket that the gateway makes.
    #[serde(deserialize_with = "fields::absolute")]
    pub socket: PathBuf,
    /// Labels, for selectors and for people.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Users as whom QEMU may run; empty for the gateway's own and root.
    #[serde(default)]
    pub owner_uids: Vec<u32>,
    /// QEMU's QMP socket, as in [`VmConfig`].
    #[serde(default, deserialize_with = "fields::absolute_or_none")]
    pub qmp: Option<PathBuf>,
    /// What becomes of the VM if somebody else freezes it.
    #[serde(default)]
    pub external_freeze: ExternalFreeze,
}

impl From<&ListenVmConfig> for VmConfig {
    fn from(config: &ListenVmConfig) -> Self {
        let ListenVmConfig { id, socket, labels, owner_uids, qmp, external_freeze } =
            config.clone();
        let mode = Mode::Persistent;
        Self {
            id,
            socket,
            labels,
            mode,
            owner_uids,
            qmp,
            libvirt_channel: true,
            external_freeze,
            listens: true,
        }
    }
}

impl VmConfig {
    /// Whether the socket is the channel that libvirt itself holds, and is not to be touched.
    pub(crate) fn is_left_alone(&self) -> bool {
        !self.libvirt_channel && is_libvirts(&self.socket)
    }
}

/// Whether that is where libvirt puts the channel that it holds itself: below `…/libvirt/qemu/`.
pub(crate) fn is_libvirts(socket: &Path) -> bool {
    let mut names = socket.iter();
    socket.file_name().is_some_and(|name| name == "org.qemu.guest_agent.0")
        && names.any(|name| name == "libvirt")
        && names.next().is_some_and(|name| name == "qemu")
}

/// A pattern of sockets that come and go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiscoverConfig {
    /// Absolute path with `*`, `?` and `[…]` in its components.
    #[serde(deserialize_with = "fields::pattern")]
    pub glob: glob::Pattern,
    /// How a path gives the VM's id; `{stem}` unless told.
    #[serde(default)]
    pub id: IdTemplate,
    /// Labels of every VM found; their values may be made from the path as ids are.
    #[serde(default)]
    pub labels: BTreeMap<String, LabelTemplate>,
    /// When the gateway holds the sockets; on demand in Proxmox VE's layout, where others connect
    /// per command, and persistent elsewhere.
    pub mode: Option<Mode>,
    /// Users as whom the listeners may run; empty for any. Root in Proxmox VE's layout unless told.
    pub owner_uids: Option<Vec<u32>>,
    /// Where libvirt keeps the XML of the domains that run, for `{domain}`; `/run/libvirt/qemu`
    /// unless told.
    #[serde(default, deserialize_with = "fields::absolute_or_none")]
    pub libvirt_state: Option<PathBuf>,
    /// Use the channels that libvirt keeps for itself all the same.
    #[serde(default)]
    pub libvirt_channel: bool,
    /// How a path gives that of the VM's QMP socket, which nobody else may use; none unless told.
    #[serde(default)]
    pub qmp: Option<PathTemplate>,
    /// What becomes of the VMs if somebody else freezes them.
    #[serde(default)]
    pub external_freeze: ExternalFreeze,
}

impl DiscoverConfig {
    /// The mode told, or the one that fits the layout.
    pub fn mode(&self) -> Mode {
        let fits = || if self.is_proxmox() { Mode::OnDemand } else { Mode::Persistent };
        self.mode.unwrap_or_else(fits)
    }

    /// The owners told, or those that fit the layout.
    pub fn owners(&self) -> &[u32] {
        match &self.owner_uids {
            Some(told) => told,
            None if self.is_proxmox() => &[0],
            None => &[],
        }
    }

    /// Where the live XML of libvirt's domains is.
    pub(crate) fn libvirt_state(&self) -> &Path {
        self.libvirt_state.as_deref().unwrap_or_else(|| Path::new("/run/libvirt/qemu"))
    }

    /// Whether anything here is made from the domain's name.
    pub(crate) fn needs_domain(&self) -> bool {
        template::need_domain(&self.id, self.qmp.as_ref(), self.labels.values())
    }

    fn is_proxmox(&self) -> bool {
        let proxmox = ["/run/qemu-server/", "/var/run/qemu-server/"];
        proxmox.iter().any(|dir| self.glob.as_str().starts_with(dir))
    }

    /// The VM behind `socket`.
    pub(crate) fn vm(&self, id: VmId, socket: &Path, domain: Option<&str>) -> VmConfig {
        let label = |(name, value): (&String, &LabelTemplate)| {
            Some((name.clone(), value.apply(socket, domain)?))
        };
        VmConfig {
            id,
            socket: socket.into(),
            labels: self.labels.iter().filter_map(label).collect(),
            mode: self.mode(),
            owner_uids: self.owners().to_vec(),
            qmp: self.qmp.as_ref().and_then(|qmp| qmp.apply(socket, domain)),
            libvirt_channel: self.libvirt_channel,
            external_freeze: self.external_freeze,
            listens: false,
        }
    }
}

/// When the gateway holds a VM's socket, which serves one client at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// As long as it can.
    #[default]
    Persistent,
    /// Only while there is something to say.
    OnDemand,
}

/// What is wrong with the config file; shown as one line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file says something wrong.
    #[error("{}:{line}: {}{cause}", file.display(), fields::prefix(key))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key as `table.key`, or empty where there is none.
        key: String,
        /// Why, on one line.
        cause: String,
    },
}

impl Config {
    /// Reads and checks a config file.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Read { file: file.into(), source })?;
        Self::parse(&text, file)
    }

    /// Checks a config file's text; `file` is its name for messages.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let invalid = |offset: usize, key: Option<String>, cause: &str| {
            let (line, found) = locate::locate(text, offset);
            let key = key.unwrap_or(found);
            let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
            ConfigError::Invalid { file: file.into(), line, key, cause }
        };
        let config: Self = toml::from_str(text).map_err(|error| {
            invalid(error.span().map_or(0, |span| span.start), None, error.message())
        })?;
        if let Some((key, cause)) = config.contradiction() {
            return Err(invalid(locate::find(text, &key), Some(key), &cause));
        }
        Ok(config)
    }

    /// The VMs that are listed, of both kinds.
    pub(crate) fn all_vms(&self) -> Vec<VmConfig> {
        let listening = self.listen_vms.iter().map(VmConfig::from);
        self.vms.iter().cloned().chain(listening).collect()
    }

    /// The first key that contradicts another, with the reason.
    fn contradiction(&self) -> Option<(String, String)> {
        let vms = self.all_vms();
        let name = |n: usize| match n.checked_sub(self.vms.len()) {
            None => format!("vm[{n}]"),
            Some(n) => format!("listen_vm[{n}]"),
        };
        let one = "has that socket already, and it serves one client";
        for (n, vm) in vms.iter().enumerate() {
            let before = |same: &dyn Fn(&VmConfig) -> bool| vms[..n].iter().position(same);
            if let Some(other) = before(&|other| other.id == vm.id) {
                let cause = format!("`{}` is the id of {} already", vm.id, name(other));
                return Some((format!("{}.id", name(n)), cause));
            }
            if let Some(other) = before(&|other| other.socket == vm.socket) {
                return Some((format!("{}.socket", name(n)), format!("{} {one}", name(other))));
            }
            let Some(qmp) = &vm.qmp else { continue };
            if vms.iter().any(|other| other.socket == *qmp) {
                let cause = "is the socket of an agent, not of QMP".into();
                return Some((format!("{}.qmp", name(n)), cause));
            }
            if let Some(other) = before(&|other| other.qmp.as_ref() == Some(qmp)) {
                return Some((format!("{}.qmp", name(n)), format!("{} {one}", name(other))));
            }
        }
        if let Some(wrong) = crate::rights::contradiction(&self.grants, &self.tokens) {
            return Some(wrong);
        }
        if let Some(wrong) = self.listen.contradiction() {
            return Some(wrong);
        }
        if let Some(wrong) = self.audit.contradiction() {
            return Some(wrong);
        }
        let l = &self.limits;
        let zero = [
            ("queue_depth", l.queue_depth),
            ("reply_cap_bytes", l.reply_cap_bytes),
            ("events_kept", l.events_kept),
        ];
        if let Some((key, _)) = zero.iter().find(|(_, value)| *value == 0) {
            return Some((format!("limits.{key}"), "must be at least 1".into()));
        }
        let ordered = [
            ("ttl_default_seconds", l.ttl_default, "ttl_max_seconds", l.ttl_max),
            (
                "freeze_timeout_default_seconds",
                l.freeze_timeout_default,
                "freeze_timeout_max_seconds",
                l.freeze_timeout_max,
            ),
            ("ttl_default_seconds", l.ttl_default, "hold_max_seconds", l.hold_max),
            ("backoff_min_seconds", l.backoff_min, "backoff_max_seconds", l.backoff_max),
        ];
        ordered.iter().find(|(_, least, _, most)| least > most).map(|(key, least, of, most)| {
            let (least, most) = (least.as_secs_f64(), most.as_secs_f64());
            (format!("limits.{key}"), format!("{least} is more than limits.{of}, {most}"))
        })
    }
}

#[cfg(test)]
mod documented;
#[cfg(test)]
mod tests;
