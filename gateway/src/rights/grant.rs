//! A grant: whom, what, on which VMs.

use std::collections::BTreeMap;

use qga_proto::command::Right;
use serde::{Deserialize, Deserializer, de};

use super::Target;
use crate::principal::Principal;

/// Whoever the permissions of the Unix socket let in.
pub(super) const ANY_PEER: &str = "unix:any";

/// `[[grant]]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Who gets it: `token:NAME`, `cert:NAME`, `unix:uid=N`, `unix:gid=N` (a peer's primary group), `unix:any`
    /// (whoever may open the Unix socket).
    #[serde(deserialize_with = "principals")]
    pub to: Vec<Principal>,
    /// A bundle of rights.
    #[serde(default)]
    pub preset: Option<Preset>,
    /// Single rights, next to the bundle's.
    #[serde(default)]
    pub rights: Vec<Right>,
    /// Globs of ids: on these VMs. Absent: on all that have the labels.
    #[serde(default, deserialize_with = "globs")]
    pub vms: Option<Vec<glob::Pattern>>,
    /// On VMs that have all of these labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A bundle of rights. None has those that reach everything in a guest: `exec`, `files_read`,
/// `files_write`, `accounts`, `raw`; nor `freeze_force`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// See.
    Observer,
    /// See, freeze and thaw.
    Backup,
    /// Those, and change time, processors and memory, shut down and suspend.
    Operator,
}

impl Preset {
    fn rights(self) -> &'static [Right] {
        match self {
            Self::Observer => &[Right::Observe],
            Self::Backup => &[Right::Observe, Right::Freeze],
            Self::Operator => &[Right::Observe, Right::Freeze, Right::Configure, Right::Power],
        }
    }
}

/// A grant, as decisions read it.
#[derive(Clone, Debug)]
pub struct Grant {
    pub(super) to: Vec<Principal>,
    rights: Vec<Right>,
    vms: Option<Vec<glob::Pattern>>,
    labels: BTreeMap<String, String>,
}

impl From<&GrantConfig> for Grant {
    fn from(config: &GrantConfig) -> Self {
        let GrantConfig { to, preset, rights, vms, labels } = config.clone();
        let bundle = preset.map_or(&[][..], Preset::rights);
        let rights = rights.iter().chain(bundle).copied().collect();
        Self { to, rights, vms, labels }
    }
}

impl Grant {
    pub(super) fn gives(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// Whether no VM is left out, whatever it is called.
    pub(super) fn selects_all(&self) -> bool {
        let all = |globs: &Vec<glob::Pattern>| globs.iter().any(|glob| glob.as_str() == "*");
        self.vms.as_ref().is_none_or(all) && self.labels.is_empty()
    }

    pub(super) fn selects(&self, vm: Target<'_>) -> bool {
        let named = self.vms.as_ref().is_none_or(|globs| {
            globs.iter().any(|glob| glob.matches_with(vm.id.as_str(), MATCHING))
        });
        let mut labels = self.labels.iter();
        let has = |(key, value): (&String, &String)| {
            vm.labels.is_some_and(|labels| labels.get(key) == Some(value))
        };
        named && labels.all(has)
    }
}

const MATCHING: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: false,
    require_literal_leading_dot: false,
};

fn principals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Principal>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    if names.is_empty() {
        return Err(de::Error::custom("names nobody"));
    }
    let known = |name: &str| match name.split_once(':') {
        _ if name == ANY_PEER => true,
        Some(("token", name)) => super::tokens::is_name(name),
        Some(("cert", name)) => !name.is_empty(),
        Some(("unix", who)) => who
            .split_once('=')
            .is_some_and(|(kind, id)| ["uid", "gid"].contains(&kind) && is_number(id)),
        _ => false,
    };
    if let Some(name) = names.iter().find(|name| !known(name)) {
        return Err(de::Error::custom(format_args!(
            "`{name}` is no principal such as token:backup, cert:backup.example, unix:uid=1000, unix:gid=984 or \
             {ANY_PEER}"
        )));
    }
    Ok(names.into_iter().map(Principal::new).collect())
}

/// As the kernel's numbers are written here: `007` would never match anybody.
fn is_number(text: &str) -> bool {
    text.parse::<u32>().is_ok_and(|number| number.to_string() == text)
}

fn globs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<glob::Pattern>>, D::Error> {
    let globs = Vec::<String>::deserialize(deserializer)?;
    if globs.is_empty() {
        return Err(de::Error::custom("names no VM; leave the key out for all of them"));
    }
    let parse = |text: &String| {
        glob::Pattern::new(text).map_err(|e| de::Error::custom(format_args!("`{text}`: {}", e.msg)))
    };
    globs.iter().map(parse).collect::<Result<_, _>>().map(Some)
}
