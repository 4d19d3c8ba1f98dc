//! Texts that are made from a discovered socket's path.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use crate::vm::VmId;

/// Text with `{name}` (the name of the socket's file), `{stem}` (that name up to its last dot),
/// `{dir}` (the name of the directory in which it lies) and `{domain}` (the name that the VM has in
/// libvirt, or as QEMU's `-name`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Name,
    Stem,
    Dir,
    Domain,
}

impl Template {
    fn apply(&self, socket: &Path, domain: Option<&str>) -> Option<String> {
        let mut made = String::new();
        for piece in &self.0 {
            let part = match piece {
                Piece::Text(text) => Some(text.as_str()),
                Piece::Name => socket.file_name().and_then(|name| name.to_str()),
                Piece::Stem => socket.file_stem().and_then(|stem| stem.to_str()),
                Piece::Dir => {
                    socket.parent().and_then(Path::file_name).and_then(|dir| dir.to_str())
                }
                Piece::Domain => domain,
            };
            made.push_str(part?);
        }
        Some(made)
    }

    fn needs_domain(&self) -> bool {
        self.0.contains(&Piece::Domain)
    }

    /// Whether it gives the same for every path.
    fn is_constant(&self) -> bool {
        self.0.iter().all(|piece| matches!(piece, Piece::Text(_)))
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(mut text: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        while let Some((before, rest)) = text.split_once('{') {
            let (name, after) = rest.split_once('}').ok_or("a `{` without its `}`")?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            pieces.push(match name {
                "name" => Piece::Name,
                "stem" => Piece::Stem,
                "dir" => Piece::Dir,
                "domain" => Piece::Domain,
                other => {
                    return Err(format!(
                        "`{{{other}}}` is none of {{name}}, {{stem}}, {{dir}}, {{domain}}"
                    ));
                }
            });
            text = after;
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text.into()));
        }
        Ok(Self(pieces))
    }
}

/// How a discovered socket's path gives its VM's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdTemplate(Template);

impl Default for IdTemplate {
    fn default() -> Self {
        Self(Template(vec![Piece::Stem]))
    }
}

impl IdTemplate {
    /// The id of the VM behind `socket`, if that makes one.
    pub fn apply(&self, socket: &Path, domain: Option<&str>) -> Option<VmId> {
        self.0.apply(socket, domain)?.parse().ok()
    }
}

impl FromStr for IdTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let template: Template = text.parse()?;
        if template.is_constant() {
            return Err(
                "without {name}, {stem}, {dir} or {domain} all VMs would have one id".into()
            );
        }
        Ok(Self(template))
    }
}

/// How a discovered socket's path gives that of another socket of its VM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PathTemplate(Template);

impl PathTemplate {
    /// The path that belongs to `socket`.
    pub fn apply(&self, socket: &Path, domain: Option<&str>) -> Option<PathBuf> {
        self.0.apply(socket, domain).map(PathBuf::from)
    }
}

impl FromStr for PathTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let template: Template = text.parse()?;
        if !text.starts_with('/') {
            return Err(format!("`{text}` is not an absolute path"));
        }
        if template.is_constant() {
            return Err(
                "without {name}, {stem}, {dir} or {domain} all VMs would share one socket".into()
            );
        }
        Ok(Self(template))
    }
}

/// A label's value, which may hold parts of a discovered socket's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelTemplate(Template);

impl LabelTemplate {
    /// The label of the VM behind `socket`.
    pub fn apply(&self, socket: &Path, domain: Option<&str>) -> Option<String> {
        self.0.apply(socket, domain)
    }
}

impl<'de> Deserialize<'de> for LabelTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for IdTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for PathTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Whether any of them asks for the domain.
pub(super) fn need_domain<'a>(
    id: &IdTemplate,
    qmp: Option<&PathTemplate>,
    mut labels: impl Iterator<Item = &'a LabelTemplate>,
) -> bool {
    id.0.needs_domain()
        || qmp.is_some_and(|qmp| qmp.0.needs_domain())
        || labels.any(|label| label.0.needs_domain())
}
