//! `/vms/{id}/files`: what is there, and names that come, change and go.

use axum::Json;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64_simd::URL_SAFE_NO_PAD;
use qga_proto::base64::Base64Text;
use qga_proto::command::{
    DirectoryEntry, FileKind, FileStat, Right, XFileList, XFileMkdir, XFileRemove, XFileRename,
    XFileStat,
};
use serde::Serialize;
use utoipa::ToSchema;

use super::FILE_PROBLEMS;
use super::content::FilePath;
use super::query::{FileQuery, Parameters, RawQuery, bad};
use super::upload::COMMANDS;
use super::validators::{Condition, Tag};
use crate::api::caller::Caller;
use crate::api::error::{Code, Problem};
use crate::api::extract::{NoBody, Path};
use crate::api::time::Timestamp;
use crate::vm::transfer::{GuestPath, UploadKey, partial};

/// What is to be shown.
#[derive(Debug)]
pub(in crate::api) struct ShowQuery {
    path: GuestPath,
    after: Option<Vec<u8>>,
    limit: Option<i64>,
    follow: Option<bool>,
}

impl Parameters for ShowQuery {
    const NAMES: &'static [&'static str] = &["path", "after", "limit", "follow"];

    fn take(query: &mut RawQuery) -> Result<Self, Problem> {
        let after = query.text("after")?.map(|text| URL_SAFE_NO_PAD.decode_to_vec(text));
        let after = after.transpose();
        Ok(Self {
            path: query.path("path")?,
            after: after.map_err(|_| bad("after", "must be the \"next\" of an earlier answer"))?,
            limit: query.number("limit", 1000)?.map(|limit| limit.max(1)),
            follow: query.flag("follow")?,
        })
    }
}

/// What there is at a path.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = File, example = json!({
    "path": "/etc/motd",
    "stat": {
        "kind": "file", "size": 14, "mode": 420, "uid": 0, "gid": 0, "nlink": 1, "ino": 42, "dev": 2049,
        "mtime-ns": 1_763_800_000_000_000_000_i64, "ctime-ns": 1_763_800_000_000_000_000_i64
    },
    "etag": "801-2a-e-187a4b2c9e61f800"
}))]
pub(in crate::api) struct FileBody {
    /// The path that was asked for; what is no UTF-8 is replaced by U+FFFD.
    path: String,
    /// Its bytes in base64, where they are no UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    path_b64: Option<String>,
    stat: FileStat,
    /// A regular file's entity tag, without the quotes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    etag: Option<String>,
    /// A directory's entries, sorted by the bytes of their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    entries: Option<Vec<DirectoryEntry>>,
    /// There are more entries: the `after` of the next request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<String>,
    /// An upload by the caller to this path that was broken off, or is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    partial: Option<PartialBody>,
}

/// An upload that can be gone on with.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PartialUpload)]
pub(in crate::api) struct PartialBody {
    /// Bytes from the beginning that are there.
    received: u64,
    /// Until when it is kept; absent while it is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    expires_at: Option<Timestamp>,
}

/// Show a file or directory in the guest
///
/// What the guest's kernel says of it, and of a directory the entries, a page at a time. Needs `qga-agent`.
/// Where nothing is there but an upload of the caller's that was broken off, the problem's `received` says
/// how much of it is kept.
#[utoipa::path(
    get,
    path = "/vms/{id}/files",
    operation_id = "show_file",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The path in the guest, percent-encoded, byte for byte; `+` stands for a space.", example = "/etc"),
        ("after" = Option<String>, Query, description = "The `next` of the page before."),
        ("limit" = Option<i64>, Query, description = "Entries, 1 to 1000; 1000 if absent."),
        ("follow" = Option<bool>, Query, description = "Whether a link at the end is followed; it is if absent."),
    ),
    responses((
        status = 200,
        description = "What is there.",
        body = FileBody,
        headers(("etag" = String, description = "Of a regular file."))
    )),
    extensions(
        ("x-qga-right" = json!(Right::FilesRead)),
        ("x-qga-command" = json!("x-guest-file-stat, x-guest-file-list")),
        ("x-qga-problems" = json!(FILE_PROBLEMS)),
    )
)]
pub(in crate::api) async fn show_file(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(query): FileQuery<ShowQuery>,
) -> Result<Response, Problem> {
    caller.is_about(&query.path.lossy());
    let ShowQuery { path, after, limit, follow } = query;
    let (vm, beneath) = caller.files(&id, Right::FilesRead, &[&path], &[]).await?;
    let partial = own_partial(&caller, &id, &path).await;
    let beneath = beneath.argument();
    let (text, b64) = path.members();
    let stat = XFileStat {
        path: text.clone(),
        path_b64: b64.clone(),
        handle: None,
        follow,
        beneath: beneath.clone(),
    };
    let stat = match (vm.call(stat).await, &partial) {
        (Err(problem), Some(partial)) if problem.code() == Code::FileNotFound => {
            return Err(problem.received(partial.received));
        }
        (stat, _) => stat?,
    };
    let (mut entries, mut next) = (None, None);
    if stat.kind == FileKind::Directory {
        let after_b64 = after.map(Base64Text::new);
        let list =
            vm.call(XFileList { path: text, path_b64: b64, after_b64, limit, beneath }).await?;
        entries = Some(list.entries);
        next = list.next.map(|next| URL_SAFE_NO_PAD.encode_to_string(next.0));
    }
    let tag = Tag::of(&stat);
    let (etag, path_b64) = (tag.map(Tag::text), path.base64());
    let path = path.lossy().into_owned();
    let body = FileBody { path, path_b64, stat, etag, entries, next, partial };
    let mut response = Json(body).into_response();
    if let Some(tag) = tag {
        response.headers_mut().insert(header::ETAG, tag.header());
    }
    Ok(response)
}

async fn own_partial(caller: &Caller, id: &str, path: &GuestPath) -> Option<PartialBody> {
    // Who may not write there any more has nothing to go on with.
    let (vm, beneath) = caller.files(id, Right::FilesWrite, &[path], COMMANDS).await.ok()?;
    let (principal, id) = (caller.principal().clone(), vm.handle.id().clone());
    let key = UploadKey { principal, vm: id, path: path.clone(), beneath };
    let partial = partial(&vm.handle, &key)?;
    Some(PartialBody {
        received: partial.received,
        expires_at: partial.expires.map(Timestamp::from),
    })
}

/// What is to be made.
#[derive(Debug)]
pub(in crate::api) struct MakeQuery {
    path: GuestPath,
    mode: Option<i64>,
    parents: Option<bool>,
}

impl Parameters for MakeQuery {
    const NAMES: &'static [&'static str] = &["path", "kind", "mode", "parents"];

    fn take(query: &mut RawQuery) -> Result<Self, Problem> {
        let path = query.path("path")?;
        if query.text("kind")?.as_deref() != Some("directory") {
            return Err(bad(
                "kind",
                "must be directory; a file is made by PUT on /vms/{id}/files/content",
            ));
        }
        Ok(Self { path, mode: query.mode()?, parents: query.flag("parents")? })
    }
}

/// Make a directory in the guest
///
/// Needs `qga-agent`.
#[utoipa::path(
    put,
    path = "/vms/{id}/files",
    operation_id = "make_directory",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The path in the guest, percent-encoded.", example = "/srv/new"),
        ("kind" = String, Query, description = "`directory`.", example = "directory"),
        ("mode" = Option<String>, Query, description = "Permission bits, octal; 0777 less the agent's umask if absent.", example = "0755"),
        ("parents" = Option<bool>, Query, description = "Make those above it too; one that is there already is no error then."),
    ),
    responses((status = 201, description = "It is there.")),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("x-guest-file-mkdir")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, &[Code::FileExists, Code::NoSpace]].concat())),
    )
)]
pub(in crate::api) async fn make_directory(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(MakeQuery { path, mode, parents }): FileQuery<MakeQuery>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    caller.is_about(&path.lossy());
    let (vm, beneath) = caller.files(&id, Right::FilesWrite, &[&path], &[]).await?;
    let ((path, path_b64), beneath) = (path.members(), beneath.argument());
    vm.call(XFileMkdir { path, path_b64, mode, parents, beneath }).await?;
    Ok(StatusCode::CREATED)
}

/// Where to.
#[derive(Debug)]
pub(in crate::api) struct RenameQuery {
    path: GuestPath,
    to: GuestPath,
    replace: Option<bool>,
}

impl Parameters for RenameQuery {
    const NAMES: &'static [&'static str] = &["path", "to", "replace"];

    fn take(query: &mut RawQuery) -> Result<Self, Problem> {
        Ok(Self {
            path: query.path("path")?,
            to: query.path("to")?,
            replace: query.flag("replace")?,
        })
    }
}

/// Rename a file or directory in the guest
///
/// On the same filesystem, in one step. Needs `qga-agent`.
#[utoipa::path(
    patch,
    path = "/vms/{id}/files",
    operation_id = "rename_file",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The path in the guest, percent-encoded.", example = "/srv/old"),
        ("to" = String, Query, description = "The new path, likewise.", example = "/srv/new"),
        ("replace" = Option<bool>, Query, description = "Whether what is there gives way; 409 if absent."),
    ),
    responses((status = 204, description = "Renamed.")),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("x-guest-file-rename")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, NAME_PROBLEMS].concat())),
    )
)]
pub(in crate::api) async fn rename_file(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(RenameQuery { path, to, replace }): FileQuery<RenameQuery>,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    caller.is_about(&format!("{} -> {}", path.lossy(), to.lossy()));
    let (vm, beneath) = caller.files(&id, Right::FilesWrite, &[&path, &to], &[]).await?;
    let ((path, path_b64), (to, to_b64)) = (path.members(), to.members());
    let beneath = beneath.argument();
    vm.call(XFileRename { path, path_b64, to, to_b64, replace, beneath }).await?;
    Ok(StatusCode::NO_CONTENT)
}

const NAME_PROBLEMS: &[Code] =
    &[Code::FileExists, Code::IsADirectory, Code::DirectoryNotEmpty, Code::FileBusy, Code::NoSpace];

/// Remove a file or an empty directory in the guest
///
/// Of a link the link, not what it leads to. Needs `qga-agent`.
#[utoipa::path(
    delete,
    path = "/vms/{id}/files",
    operation_id = "remove_file",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The path in the guest, percent-encoded.", example = "/srv/old"),
        ("if-match" = Option<String>, Header, description = "412 unless the file has this ETag."),
    ),
    responses((status = 204, description = "It is gone.")),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("x-guest-file-remove")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, NAME_PROBLEMS].concat())),
    )
)]
pub(in crate::api) async fn remove_file(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(FilePath(path)): FileQuery<FilePath>,
    headers: HeaderMap,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    remove(&caller, &id, &path, &headers).await
}

/// Remove a file in the guest
///
/// As `DELETE /vms/{id}/files`.
#[utoipa::path(
    delete,
    path = "/vms/{id}/files/content",
    operation_id = "remove_file_content",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The path in the guest, percent-encoded.", example = "/srv/old"),
        ("if-match" = Option<String>, Header, description = "412 unless the file has this ETag."),
    ),
    responses((status = 204, description = "It is gone.")),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("x-guest-file-remove")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, NAME_PROBLEMS].concat())),
    )
)]
pub(in crate::api) async fn remove_content(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(FilePath(path)): FileQuery<FilePath>,
    headers: HeaderMap,
    _: NoBody,
) -> Result<StatusCode, Problem> {
    remove(&caller, &id, &path, &headers).await
}

async fn remove(
    caller: &Caller,
    id: &str,
    path: &GuestPath,
    headers: &HeaderMap,
) -> Result<StatusCode, Problem> {
    caller.is_about(&path.lossy());
    let (vm, beneath) = caller.files(id, Right::FilesWrite, &[path], &[]).await?;
    let expect = match Condition::of(headers) {
        Condition::OneOf(tags) => match &*tags {
            [tag] => Some(tag.expected()),
            _ => {
                return Err(Problem::bad_request(
                    "Header If-Match must be one ETag of a file, or *.",
                ));
            }
        },
        // A name that is not there cannot be removed anyway.
        _ => None,
    };
    let ((path, path_b64), beneath) = (path.members(), beneath.argument());
    vm.call(XFileRemove { path, path_b64, expect, beneath }).await?;
    Ok(StatusCode::NO_CONTENT)
}
