//! `/vms/{id}/file-handles`: the guest's file commands, one to one.

mod arguments;

use axum::Json as Answer;
use axum::http::{HeaderName, StatusCode, header};
use qga_proto::command::{
    Command, Empty, FileRead, FileSeek, FileWrite, GuestFileClose, GuestFileFlush, GuestFileRead,
    Right,
};

use super::call_timeout::CallTimeout;
use super::caller::Caller;
use super::document::CALL_PROBLEMS;
use super::error::Problem;
use super::extract::{Json, NoBody, Path};
use arguments::{
    FileHandle, FileHandlePath, MAX_WRITE_BODY, OpenRequest, ReadRequest, SeekRequest, WriteRequest,
};

/// The right that opening needs, by the request's body; that of writing if that cannot be told.
pub(super) fn right(body: &[u8]) -> Right {
    let request = serde_json::from_slice::<OpenRequest>(body).ok();
    let checked = request.and_then(|request| request.checked().ok());
    checked.map_or(Right::FilesWrite, |(_, right)| right)
}

/// Open a file in the guest
///
/// `guest-file-open`. Handles outlive connections: close them. Reading needs the right
/// `files_read`, every other mode `files_write`. Whoever has those for some files only uses
/// `/vms/{id}/files/content`, since a handle knows no path.
#[utoipa::path(
    post,
    path = "/vms/{id}/file-handles",
    tag = "files",
    params(("id" = String, Path, description = "The VM.", example = "web-1"), CallTimeout),
    request_body = OpenRequest,
    responses((
        status = 201,
        description = "Open.",
        body = FileHandle,
        headers(("location" = String, description = "`/vms/{id}/file-handles/{handle}`"))
    )),
    extensions(
        ("x-qga-right" = json!("files_read, or files_write by mode")),
        ("x-qga-command" = json!("guest-file-open")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn open_file(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(request): Json<OpenRequest>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Answer<FileHandle>), Problem> {
    let (arguments, right) = request.checked()?;
    caller.is_about(&arguments.path);
    let handle = caller.vm(&id, right)?.within(timeout).call(arguments).await?;
    let location = format!("/vms/{id}/file-handles/{handle}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(FileHandle { handle })))
}

/// Close a file in the guest
///
/// `guest-file-close`.
#[utoipa::path(
    delete,
    path = "/vms/{id}/file-handles/{handle}",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("handle" = i64, Path, description = "From opening.", example = 1000),
        CallTimeout,
    ),
    responses((status = 200, description = "Closed.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::FilesRead)),
        ("x-qga-command" = json!("guest-file-close")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn close_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    _: NoBody,
) -> Result<Answer<Empty>, Problem> {
    caller
        .vm(&id, Right::FilesRead)?
        .within(timeout)
        .call(GuestFileClose { handle })
        .await
        .map(Answer)
}

/// Read from a file in the guest
///
/// `guest-file-read` from the handle's position. `eof` with a count of 0 says that there is
/// nothing more.
#[utoipa::path(
    post,
    path = "/vms/{id}/file-handles/{handle}/read",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("handle" = i64, Path, description = "From opening.", example = 1000),
        CallTimeout,
    ),
    request_body = ReadRequest,
    responses((
        status = 200,
        description = "What was read.",
        body = FileRead,
        example = json!({"count": 6, "buf-b64": "aGVsbG8K", "eof": false})
    )),
    extensions(
        ("x-qga-right" = json!(Right::FilesRead)),
        ("x-qga-command" = json!("guest-file-read")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn read_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    Json(request): Json<ReadRequest>,
) -> Result<Answer<FileRead>, Problem> {
    let (arguments, bytes) = request.checked(handle)?;
    let vm = caller.vm(&id, Right::FilesRead)?.within(timeout);
    let mut options = vm.options(&GuestFileRead::INFO);
    options.reply_cap = bytes.div_ceil(3) * 4 + 4096;
    vm.call_with(arguments, options).await.map(Answer)
}

/// Write to a file in the guest
///
/// `guest-file-write` at the handle's position. The agent may buffer: flush or close before
/// somebody else reads the file.
#[utoipa::path(
    post,
    path = "/vms/{id}/file-handles/{handle}/write",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("handle" = i64, Path, description = "From opening.", example = 1000),
        CallTimeout,
    ),
    request_body = WriteRequest,
    responses((
        status = 200,
        description = "How much was written.",
        body = FileWrite,
        example = json!({"count": 6, "eof": false})
    )),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("guest-file-write")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn write_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    Json(request): Json<WriteRequest, MAX_WRITE_BODY>,
) -> Result<Answer<FileWrite>, Problem> {
    let arguments = request.checked(handle)?;
    caller.vm(&id, Right::FilesWrite)?.within(timeout).call(arguments).await.map(Answer)
}

/// Move a handle's position
///
/// `guest-file-seek`.
#[utoipa::path(
    post,
    path = "/vms/{id}/file-handles/{handle}/seek",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("handle" = i64, Path, description = "From opening.", example = 1000),
        CallTimeout,
    ),
    request_body = SeekRequest,
    responses((
        status = 200,
        description = "The new position.",
        body = FileSeek,
        example = json!({"position": 0, "eof": false})
    )),
    extensions(
        ("x-qga-right" = json!(Right::FilesRead)),
        ("x-qga-command" = json!("guest-file-seek")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn seek_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    Json(request): Json<SeekRequest>,
) -> Result<Answer<FileSeek>, Problem> {
    let arguments = request.checked(handle)?;
    caller.vm(&id, Right::FilesRead)?.within(timeout).call(arguments).await.map(Answer)
}

/// Hand buffered writes to the guest's kernel
///
/// `guest-file-flush`.
#[utoipa::path(
    post,
    path = "/vms/{id}/file-handles/{handle}/flush",
    tag = "files",
    params(
        ("id" = String, Path, description = "The VM.", example = "web-1"),
        ("handle" = i64, Path, description = "From opening.", example = 1000),
        CallTimeout,
    ),
    responses((status = 200, description = "Flushed.", body = Empty)),
    extensions(
        ("x-qga-right" = json!(Right::FilesWrite)),
        ("x-qga-command" = json!("guest-file-flush")),
        ("x-qga-problems" = json!(CALL_PROBLEMS)),
    )
)]
pub(super) async fn flush_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    _: NoBody,
) -> Result<Answer<Empty>, Problem> {
    caller
        .vm(&id, Right::FilesWrite)?
        .within(timeout)
        .call(GuestFileFlush { handle })
        .await
        .map(Answer)
}
