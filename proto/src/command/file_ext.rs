//! Our agent's own commands for files: `x-guest-file-stat`, `-list`, `-open`, `-create`, `-sync`, `-commit`,
//! `-rename`, `-remove`, `-mkdir`, `-beneath`.
//!
//! A stock agent does not have them. Their errors carry the name of the error number
//! ([`QgaError::errno`](crate::QgaError::errno)), and so do those of `guest-file-read`, `-write` and
//! so on for handles that come from here. See `docs/extensions.md`.
//!
//! Paths are text, or any bytes but NUL in base64: one of the two members. Where `beneath` is given,
//! the kernel holds them below those directories.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Command, CommandInfo, Empty, Right};
use crate::base64::{Base64, Base64Text};

/// `x-guest-file-stat`: what the kernel says of a path, or of an open file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileStat {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// An open file instead of a path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handle: Option<i64>,
    /// Whether a link at the end is followed. Absent: it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub follow: Option<bool>,
    /// The file must lie below one of these directories; no link and no `..` leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileStat {
    const INFO: CommandInfo =
        CommandInfo { right: Right::FilesRead, ..CommandInfo::query("x-guest-file-stat") };
    type Return = FileStat;
}

/// What the kernel says of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileStat {
    /// What it is.
    pub kind: FileKind,
    /// Bytes. 0 where the kernel does not know, as in `/proc`.
    pub size: u64,
    /// Permission bits, with set-user-id, set-group-id and sticky; a number, 0 to 4095.
    pub mode: u32,
    /// The owner's number.
    pub uid: u32,
    /// The group's number.
    pub gid: u32,
    /// Names that it has.
    pub nlink: u64,
    /// Its number on its filesystem.
    pub ino: u64,
    /// The filesystem's number.
    pub dev: u64,
    /// When its content changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When anything of it changed, in nanoseconds since 1970.
    pub ctime_ns: i64,
    /// Where a link leads; what is no UTF-8 is replaced by U+FFFD.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A block device.
    BlockDevice,
    /// A character device.
    CharDevice,
    /// Something newer.
    #[default]
    #[serde(other)]
    Unknown,
}

/// `x-guest-file-list`: the entries of a directory, sorted by the bytes of their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileList {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// Only names behind this one, base64: the `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after_b64: Option<Base64Text>,
    /// Entries at most, 1 to 1000. Absent means 1000. Long names make a page shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i64>,
    /// The file must lie below one of these directories; no link and no `..` leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileList {
    const INFO: CommandInfo =
        CommandInfo { right: Right::FilesRead, ..CommandInfo::query("x-guest-file-list") };
    type Return = FileList;
}

/// A page of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileList {
    /// Its entries.
    pub entries: Vec<DirectoryEntry>,
    /// Where the next page begins, base64; absent: this is the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Base64>,
}

/// An entry of a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DirectoryEntry {
    /// Its name; what is no UTF-8 is replaced by U+FFFD.
    pub name: String,
    /// The name's bytes, base64, where it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<String>, content_encoding = "base64"))]
    pub name_b64: Option<Base64>,
    /// What the kernel says of it, links not followed; absent: it has gone meanwhile, or may not be
    /// looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stat: Option<FileStat>,
}

/// `x-guest-file-open`: opens a file that is there, for the `guest-file-…` commands. Never waits
/// for the other end of a pipe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileOpen {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// For writing at any place, instead of reading. It is not made shorter. Needs the right to
    /// write files too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<bool>,
    /// The file must lie below one of these directories; no link and no `..` leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileOpen {
    const INFO: CommandInfo = CommandInfo::change("x-guest-file-open", Right::FilesRead);
    type Return = OpenFile;
}

/// An open file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// For the `guest-file-…` commands.
    pub handle: i64,
    /// What the kernel says of it.
    pub stat: FileStat,
}

/// `x-guest-file-create`: opens a new file that has no name until `x-guest-file-commit` gives it
/// its own. Closing it without, and the end of the agent, leave nothing behind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileCreate {
    /// What it will be called. What is there is replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// The file must lie below one of these directories; no link and no `..` leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileCreate {
    const INFO: CommandInfo = CommandInfo::change("x-guest-file-create", Right::FilesWrite);
    type Return = CreatedFile;
}

/// What `x-guest-file-create` answers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedFile {
    /// For the `guest-file-…` commands and `x-guest-file-commit`.
    pub handle: i64,
    /// What it will replace, as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<FileStat>,
}

/// `x-guest-file-sync`: begins to write what there is of a created file to disk, so that its commit,
/// for which everybody else waits, finds little left to write. Never waits: ask again until it says
/// that it is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XFileSync {
    /// From `x-guest-file-create`.
    pub handle: i64,
}

impl Command for XFileSync {
    const INFO: CommandInfo =
        CommandInfo { right: Right::FilesWrite, ..CommandInfo::query("x-guest-file-sync") };
    type Return = FileSync;
}

/// What `x-guest-file-sync` answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSync {
    /// What there was when it began is on disk.
    pub done: bool,
}

/// `x-guest-file-commit`: writes a created file to disk and gives it its name, in one step. The
/// handle is closed, unless this fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileCommit {
    /// From `x-guest-file-create`.
    pub handle: i64,
    /// Permission bits, with set-user-id and so on. Absent: those of the file that it replaces,
    /// without set-user-id and set-group-id, or 0666 less the umask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<i64>,
    /// The owner's number. Absent: that of the file that it replaces, or the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<i64>,
    /// The group's number. Absent: that of the file that it replaces, or the agent's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<i64>,
    /// What must stand there now for it to be replaced. Absent: anything or nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expected>,
}

impl Command for XFileCommit {
    const INFO: CommandInfo = CommandInfo::change("x-guest-file-commit", Right::FilesWrite);
    type Return = FileStat;
}

/// What must stand where a file is to be put. What it is differs: EEXIST, ENOENT or ESTALE.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Expected {
    /// Nothing must. Goes with none of the others.
    #[serde(
        default,
        deserialize_with = "false_if_absent",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub absent: bool,
    /// A file of this number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ino: Option<u64>,
    /// Of this size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// Whose content changed at this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
}

/// An agent asks arguments for every member, also for one that is not there.
fn false_if_absent<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// `x-guest-file-rename`: gives a file or directory another name on the same filesystem.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileRename {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// The new path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// The new path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_b64: Option<Base64Text>,
    /// Whether what is there already gives way. Absent: it does not, and that is an error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replace: Option<bool>,
    /// Both ends must lie below some of these directories; no link and no `..` leads to them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileRename {
    const INFO: CommandInfo = CommandInfo::change("x-guest-file-rename", Right::FilesWrite);
    type Return = Empty;
}

/// `x-guest-file-remove`: removes a file, a link (not what it leads to), or an empty directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileRemove {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// What must stand there for it to be removed. Absent: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<Expected>,
    /// The file must lie below one of these directories; no link and no `..` leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileRemove {
    const INFO: CommandInfo = CommandInfo::change("x-guest-file-remove", Right::FilesWrite);
    type Return = Empty;
}

/// `x-guest-file-mkdir`: makes a directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileMkdir {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// Permission bits of the last one. Absent: 0777 less the umask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<i64>,
    /// Make the directories above it too; one that is there already is no error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parents: Option<bool>,
    /// The file must lie below one of these directories; no link and no `..` leads there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beneath: Option<Vec<String>>,
}

impl Command for XFileMkdir {
    const INFO: CommandInfo = CommandInfo::change("x-guest-file-mkdir", Right::FilesWrite);
    type Return = Empty;
}

/// `x-guest-file-beneath`: whether a path lies below one of some directories, and is there. Whoever
/// has this command keeps to the `beneath` of the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct XFileBeneath {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The path's bytes, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_b64: Option<Base64Text>,
    /// The directories.
    pub beneath: Vec<String>,
}

impl Command for XFileBeneath {
    const INFO: CommandInfo =
        CommandInfo { right: Right::FilesRead, ..CommandInfo::query("x-guest-file-beneath") };
    type Return = Empty;
}
