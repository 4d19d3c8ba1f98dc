//! `/vms/{id}/file-handles`: the guest's file commands, one to one.

mod arguments;
mod held;
mod raw;

use axum::Json as Answer;
use axum::http::{HeaderName, StatusCode, header};
use qga_proto::command::{
    Command, Empty, FileRead, FileSeek, FileWrite, GuestFileClose, GuestFileFlush, GuestFileOpen,
    GuestFileRead, Right,
};

use super::call_timeout::CallTimeout;
use super::caller::{Caller, Shown};
use super::document::CALL_PROBLEMS;
use super::error::{Code, Problem};
use super::extract::{Json, NoBody, Path};
use arguments::{
    FileHandle, FileHandlePath, MAX_WRITE_BODY, OpenRequest, ReadRequest, SeekRequest, WriteRequest,
};
use held::Opening;
pub(super) use raw::{Claim, right as raw_right};

/// What an operation on a handle can run into besides.
const HANDLE_PROBLEMS: &[Code] = &[Code::FileHandleUnknown, Code::FileHandleConflict];

/// The right that opening needs, by the request's body; that of writing if that cannot be told.
pub(super) fn right(body: &[u8]) -> Right {
    let request = serde_json::from_slice::<OpenRequest>(body).ok();
    let checked = request.and_then(|request| request.checked().ok());
    checked.map_or(Right::FilesWrite, |(_, access)| access.right())
}

/// Open a file in the guest
///
/// `guest-file-open`. Handles outlive connections: close them. Reading needs the right
/// `files_read`, every other mode `files_write`. Whoever has those for some files only uses
/// `/vms/{id}/files/content`, since a handle knows no path. A handle is its opener's: others get at it with
/// the right `raw`, and nobody at those of the gateway's own transfers. It is closed when its opener loses
/// the right. A caller has at most `limits.transfers_vm` on a VM (429 `too_many_file_handles`).
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
        ("x-qga-problems" = json!([CALL_PROBLEMS, &[Code::TooManyFileHandles]].concat())),
    )
)]
pub(super) async fn open_file(
    caller: Caller,
    Path(id): Path<String>,
    timeout: CallTimeout,
    Json(request): Json<OpenRequest>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Answer<FileHandle>), Problem> {
    let (arguments, access) = request.checked()?;
    let path = arguments.path.clone();
    caller.is_about(&path);
    let vm = caller.vm(&id, access.right())?.within(timeout);
    let place = Opening::begin(&caller, &vm, access)?;
    let info = const { &GuestFileOpen::INFO };
    vm.admit(info).await?;
    caller.sends(info.name);
    let (timed, options, guest) = (vm.time(info), vm.options(info), vm.handle.clone());
    let call = async move { guest.call(arguments, options).await };
    let (place, handle) = place.open(&vm.handle, call, |handle| Some(*handle)).await;
    drop(timed);
    let handle = handle.map_err(|error| vm.failed(info, error))?;
    place.enter(&caller, &vm, handle, &path);
    let location = format!("/vms/{id}/file-handles/{handle}");
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Answer(FileHandle { handle })))
}

/// Close a file in the guest
///
/// `guest-file-close`. As of every operation on a handle that the caller has not opened: 404
/// `file_handle_unknown`, unless it has the right `raw`.
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
        ("x-qga-problems" = json!([CALL_PROBLEMS, HANDLE_PROBLEMS].concat())),
    )
)]
pub(super) async fn close_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    _: NoBody,
) -> Result<Answer<Empty>, Problem> {
    let vm = caller.vm(&id, Right::FilesRead)?.within(timeout);
    held::call(&caller, &vm, handle, GuestFileClose { handle }).await.map(Answer)
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
        ("x-qga-problems" = json!([CALL_PROBLEMS, HANDLE_PROBLEMS].concat())),
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
    held::call_with(&caller, &vm, handle, arguments, options).await.map(Answer)
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
        ("x-qga-problems" = json!([CALL_PROBLEMS, HANDLE_PROBLEMS].concat())),
    )
)]
pub(super) async fn write_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    _: Shown,
    Json(request): Json<WriteRequest, MAX_WRITE_BODY>,
) -> Result<Answer<FileWrite>, Problem> {
    let arguments = request.checked(handle)?;
    let vm = caller.vm(&id, Right::FilesWrite)?.within(timeout);
    held::call(&caller, &vm, handle, arguments).await.map(Answer)
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
        ("x-qga-problems" = json!([CALL_PROBLEMS, HANDLE_PROBLEMS].concat())),
    )
)]
pub(super) async fn seek_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    Json(request): Json<SeekRequest>,
) -> Result<Answer<FileSeek>, Problem> {
    let arguments = request.checked(handle)?;
    let vm = caller.vm(&id, Right::FilesRead)?.within(timeout);
    held::call(&caller, &vm, handle, arguments).await.map(Answer)
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
        ("x-qga-problems" = json!([CALL_PROBLEMS, HANDLE_PROBLEMS].concat())),
    )
)]
pub(super) async fn flush_file(
    caller: Caller,
    Path(FileHandlePath { id, handle }): Path<FileHandlePath>,
    timeout: CallTimeout,
    _: NoBody,
) -> Result<Answer<Empty>, Problem> {
    let vm = caller.vm(&id, Right::FilesWrite)?.within(timeout);
    held::call(&caller, &vm, handle, GuestFileFlush { handle }).await.map(Answer)
}
