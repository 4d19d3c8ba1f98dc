//! A grant: whom, what, on which VMs.

use std::collections::BTreeMap;

use qga_proto::command::Right;
use serde::{Deserialize, Deserializer, de};

use super::Target;
use super::files::{FileRule, Prefix, prefixes};
use super::programs::{self, ProgramRule};
use crate::principal::Principal;

/// Whoever the permissions of the Unix socket let in.
pub(super) const ANY_PEER: &str = "unix:any";

/// `[[grant]]` in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantConfig {
    /// Who gets it: `token:NAME`, `cert:NAME`, `unix:uid=N`, `unix:gid=N` (a group of the peer's), `unix:any`
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
    /// `files_read` and `files_write` only below these directories. Absent: all files.
    #[serde(default, deserialize_with = "prefixes")]
    pub files: Option<Vec<Prefix>>,
    /// Also where the guest's agent does not hold paths below `files`: by the path's name alone.
    #[serde(default)]
    pub allow_unenforced: bool,
    /// `exec` only for these programs. Absent: all.
    #[serde(default, deserialize_with = "programs::rules")]
    pub programs: Option<Vec<ProgramRule>>,
}

impl GrantConfig {
    /// What makes no sense, by its key, with the reason.
    pub(super) fn contradiction(&self) -> Option<(&'static str, &'static str)> {
        let rights = Grant::from(self).rights;
        let gives = |right| rights.contains(&right);
        let files = gives(Right::FilesRead) || gives(Right::FilesWrite);
        match () {
            () if rights.is_empty() => Some(("", "gives no right: it needs `preset` or `rights`")),
            () if self.files.is_some() && !files => {
                Some(("files", "limits files_read and files_write, and the grant gives neither"))
            }
            () if self.allow_unenforced && self.files.is_none() => {
                Some(("allow_unenforced", "says how `files` is taken, which is not there"))
            }
            () if self.programs.is_some() && !gives(Right::Exec) => {
                Some(("programs", "limits exec, which the grant does not give"))
            }
            () => None,
        }
    }
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
    files: Option<Vec<Prefix>>,
    allow_unenforced: bool,
    pub(super) programs: Option<Vec<ProgramRule>>,
}

impl From<&GrantConfig> for Grant {
    fn from(config: &GrantConfig) -> Self {
        let GrantConfig { to, preset, rights, vms, labels, files, allow_unenforced, programs } =
            config.clone();
        let bundle = preset.map_or(&[][..], Preset::rights);
        let rights = rights.iter().chain(bundle).copied().collect();
        Self { to, rights, vms, labels, files, allow_unenforced, programs }
    }
}

impl Grant {
    /// Whether it gives the right, and all of it: what knows nothing of limits must not get one
    /// that has some.
    pub(super) fn gives(&self, right: Right) -> bool {
        let limited = match right {
            Right::FilesRead | Right::FilesWrite => self.files.is_some(),
            Right::Exec => self.programs.is_some(),
            _ => false,
        };
        self.mentions(right) && !limited
    }

    /// Whether it gives the right, limited or not.
    pub(super) fn mentions(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }

    /// What its rights on files are limited to.
    pub(super) fn file_rules(&self) -> Option<Vec<FileRule>> {
        let rule = |prefix: &Prefix| FileRule {
            prefix: prefix.clone(),
            unenforced: self.allow_unenforced,
        };
        self.files.as_ref().map(|files| files.iter().map(rule).collect())
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
