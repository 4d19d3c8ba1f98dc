//! `/vms/{id}/files/content`: a file's bytes.

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use qga_proto::command::{Command as _, GuestFileOpen, Right, XFileOpen};

use super::query::{FileQuery, Parameters, RawQuery};
use super::upload::{self, UploadBody, UploadQuery};
use super::{FILE_PROBLEMS, download};
use crate::api::caller::Caller;
use crate::api::error::Problem;
use crate::api::extract::Path;
use crate::vm::transfer::{GuestPath, Opened};

/// Which file.
#[derive(Debug)]
pub(in crate::api) struct FilePath(pub(super) GuestPath);

impl Parameters for FilePath {
    const NAMES: &'static [&'static str] = &["path"];

    fn take(query: &mut RawQuery) -> Result<Self, Problem> {
        query.path("path").map(Self)
    }
}

/// Read a file in the guest
///
/// Its bytes, as they are read, in chunks that leave room for others on the VM's one link. With
/// `qga-agent` the answer has `etag` and `last-modified`, and all conditions of RFC 9110 hold; with a
/// stock agent the size is found by seeking to the end. Where there is no size to be known (`/proc`,
/// devices), the body is chunked and goes to the end. A file that ends before the length that was
/// announced breaks the connection, so that nobody takes a part for the whole. While the guest is
/// frozen the transfer waits, and goes on after the thaw. Several ranges at once are answered with the
/// whole file. Named pipes and sockets are refused where the agent can tell.
#[utoipa::path(
    get,
    path = "/vms/{id}/files/content",
    operation_id = "read_file_content",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The file in the guest, percent-encoded, byte for byte; `+` stands for a space.", example = "/var/log/syslog"),
        ("range" = Option<String>, Header, description = "`bytes=100-199`, `bytes=100-` or `bytes=-100`."),
        ("if-range" = Option<String>, Header, description = "The ETag or date of what the caller has: if the file is another one by now, all of it is sent."),
        ("if-none-match" = Option<String>, Header, description = "ETags that the caller has: 304 if the file still has one of them."),
        ("if-match" = Option<String>, Header, description = "412 unless the file has one of these ETags."),
        ("if-modified-since" = Option<String>, Header, description = "304 if it was not."),
        ("if-unmodified-since" = Option<String>, Header, description = "412 if it was."),
    ),
    responses(
        (
            status = 200,
            description = "The whole file.",
            content_type = "application/octet-stream",
            body = Vec<u8>,
            headers(
                ("content-length" = u64, description = "Absent where the size cannot be known."),
                ("accept-ranges" = String, description = "`bytes`, or `none` where the size cannot be known."),
                ("etag" = String, description = "Strong; of regular files, with `qga-agent`."),
                ("last-modified" = String, description = "Likewise."),
                ("content-disposition" = String, description = "`attachment`, with the file's name."),
            )
        ),
        (
            status = 206,
            description = "The range that was asked for.",
            content_type = "application/octet-stream",
            body = Vec<u8>,
            headers(("content-range" = String, description = "Which part, of how much: `bytes 100-199/1234`."))
        ),
        (status = 304, description = "The caller has it."),
    ),
    extensions(
        ("x-qga-right" = json!(Right::FilesRead)),
        ("x-qga-command" = json!("x-guest-file-open or guest-file-open, guest-file-seek, guest-file-read, guest-file-close")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, super::READ_PROBLEMS].concat())),
    )
)]
pub(in crate::api) async fn read_content(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(FilePath(path)): FileQuery<FilePath>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(&caller, &id, &path, &headers, true).await
}

/// Look at a file in the guest
///
/// The head of the answer that GET gives, without `range`.
#[utoipa::path(
    head,
    path = "/vms/{id}/files/content",
    operation_id = "head_file_content",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The file in the guest, percent-encoded.", example = "/var/log/syslog"),
    ),
    responses(
        (
            status = 200,
            description = "As GET, without the body.",
            headers(
                ("content-length" = u64, description = "Absent where the size cannot be known."),
                ("etag" = String, description = "Strong; of regular files, with `qga-agent`."),
                ("last-modified" = String, description = "Likewise."),
            )
        ),
        (status = 304, description = "The caller has it."),
    ),
    extensions(
        ("x-qga-right" = json!(Right::FilesRead)),
        ("x-qga-command" = json!("x-guest-file-open or guest-file-open, guest-file-seek, guest-file-read, guest-file-close")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, super::READ_PROBLEMS].concat())),
    )
)]
pub(in crate::api) async fn head_content(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(FilePath(path)): FileQuery<FilePath>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    read(&caller, &id, &path, &headers, false).await
}

async fn read(
    caller: &Caller,
    id: &str,
    path: &GuestPath,
    headers: &HeaderMap,
    with_body: bool,
) -> Result<Response, Problem> {
    caller.is_about(&path.lossy());
    let (vm, beneath) = caller.files(id, Right::FilesRead, &[path], &[&XFileOpen::INFO]).await?;
    let stat = beneath.is_held() || vm.offers(&XFileOpen::INFO).await?;
    let info = if stat { &XFileOpen::INFO } else { &GuestFileOpen::INFO };
    vm.admit(info).await?;
    if !stat {
        vm.needs_text(path)?;
    }
    vm.sends(info.name);
    let opened = Opened::open(&vm.handle, caller.principal(), path, &beneath, stat).await;
    let opened = opened.map_err(|error| vm.transfer_failed(error))?;
    let answer = download::answer(&vm, path, opened, headers, with_body).await?;
    let (handle, path) = (vm.handle.clone(), path.clone());
    let may = move |caller: &Caller| caller.reaches(&handle, Right::FilesRead, &path);
    Ok(answer.map(|body| if with_body { caller.while_allowed(body, may) } else { body }))
}

/// Write a file in the guest
///
/// The body is the content. With `qga-agent` it goes into a file without a name, is written to disk, and
/// appears in its place whole: until then, and whenever something fails, what is there stays as it was.
/// Mode and owner are those given, or else of the file that is replaced. With a stock agent the file
/// is written where it is, and the answer says `"atomic": false`; a problem then says in `written` how
/// far that came.
///
/// **To go on** after a connection broke: what arrived is kept for a while (10 minutes unless
/// configured), and `GET /vms/{id}/files?path=` shows it as `partial`. A PUT of the rest with `offset`, or with
/// `content-range: bytes 100-199/200`, goes on from there; one that begins elsewhere is refused with
/// `upload_offset_mismatch`, whose `received` says where. A `content-range` that does not end at the total is
/// answered with 202, and more is waited for. With a stock agent the file itself is gone on with.
/// `in_place=true` with `offset` overwrites a part of a file that is there.
///
/// A command with an outcome that is not known is not sent again: after `outcome: unknown`, look.
#[utoipa::path(
    put,
    path = "/vms/{id}/files/content",
    operation_id = "write_file_content",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("path" = String, Query, description = "The file in the guest, percent-encoded, byte for byte; `+` stands for a space.", example = "/etc/motd"),
        ("mode" = Option<String>, Query, description = "Permission bits, octal. Needs `qga-agent`, as do owner and group.", example = "0644"),
        ("uid" = Option<i64>, Query, description = "The owner's number."),
        ("gid" = Option<i64>, Query, description = "The group's number."),
        ("offset" = Option<u64>, Query, description = "Where in the content the body begins: goes on with an upload that was broken off."),
        ("in_place" = Option<bool>, Query, description = "With `offset`: overwrites that part of the file that is there, and leaves the rest."),
        ("content-range" = Option<String>, Header, description = "As `offset`, with the end and the total: `bytes 100-199/200`."),
        ("if-match" = Option<String>, Header, description = "412 unless the file that is replaced has this ETag, or `*`: is there. Checked at the beginning, and again when it is replaced. Needs `qga-agent`."),
        ("if-none-match" = Option<String>, Header, description = "`*`: 412 if there is such a file. Likewise."),
        ("repr-digest" = Option<String>, Header, description = "Of the whole content (RFC 9530), `sha-256` or `sha-512`: checked before the file is put in its place."),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "The content. There is no limit to its size."),
    responses(
        (status = 200, description = "Written.", body = UploadBody, headers(("etag" = String, description = "Of the new content, with `qga-agent`."))),
        (status = 201, description = "Written; there was no such file before.", body = UploadBody, headers(("etag" = String, description = "Of the new content."))),
        (status = 202, description = "Kept, until the rest comes.", body = upload::PartBody),
    ),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("x-guest-file-create, guest-file-write, x-guest-file-commit; or guest-file-open, guest-file-write, guest-file-close")),
        ("x-qga-problems" = json!([FILE_PROBLEMS, super::WRITE_PROBLEMS].concat())),
    )
)]
pub(in crate::api) async fn write_content(
    caller: Caller,
    Path(id): Path<String>,
    FileQuery(query): FileQuery<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.is_about(&query.path.lossy());
    let paths = [&query.path];
    let (vm, beneath) = caller.files(&id, Right::FilesWrite, &paths, upload::COMMANDS).await?;
    let (handle, path) = (vm.handle.clone(), query.path.clone());
    let may = move |caller: &Caller| caller.reaches(&handle, Right::FilesWrite, &path);
    let plan = upload::Plan::of(query, &headers, beneath)?;
    let mut body = upload::Sent::new(caller.while_allowed(body, may));
    let answer = upload::carry_out(&vm, caller.principal(), plan, &mut body).await;
    if answer.is_err() {
        body.drain();
    }
    answer.map(|done| match done {
        upload::Done::Part(part) => (StatusCode::ACCEPTED, Json(part)).into_response(),
        upload::Done::Whole { created, tag, body } => {
            let status = if created { StatusCode::CREATED } else { StatusCode::OK };
            let mut response = (status, Json(body)).into_response();
            if let Some(tag) = tag {
                response.headers_mut().insert(axum::http::header::ETAG, tag.header());
            }
            response
        }
    })
}
