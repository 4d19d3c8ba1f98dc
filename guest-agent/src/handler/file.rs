//! `guest-file-open`, `-close`, `-read`, `-write`, `-seek`, `-flush`.

use qga_proto::command::{
    Command as _, FileSeek, FileWrite, GuestFileClose, GuestFileFlush, GuestFileOpen,
    GuestFileRead, GuestFileSeek, GuestFileWrite,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::files::{FileTable, invalid_count};
use crate::log;

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestFileOpen::INFO.name, place: Place::Files(open) },
    Handler { command: GuestFileClose::INFO.name, place: Place::Files(close) },
    Handler { command: GuestFileRead::INFO.name, place: Place::Files(read) },
    Handler { command: GuestFileWrite::INFO.name, place: Place::Files(write) },
    Handler { command: GuestFileSeek::INFO.name, place: Place::Files(seek) },
    Handler { command: GuestFileFlush::INFO.name, place: Place::Files(flush) },
];

/// What a read without a count asks for.
const DEFAULT_COUNT: i64 = 4096;

fn open(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFileOpen { path, mode } = request.arguments()?;
    let mode = mode.as_deref().unwrap_or("r");
    let handle = files.open(&path, mode)?;
    log::info(format_args!("guest-file-open, handle: {handle}, filepath: {path}, mode: {mode}"));
    Ok(Outcome::value(&handle))
}

fn close(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFileClose { handle } = request.arguments()?;
    files.close(handle)?;
    Ok(Outcome::empty())
}

fn read(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFileRead { handle, count } = request.arguments()?;
    files.read(handle, count.unwrap_or(DEFAULT_COUNT)).map(Outcome::Return)
}

fn write(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFileWrite { handle, buf_b64, count } = request.arguments()?;
    files.exists(handle)?;
    let bytes = buf_b64.decode()?;
    let wanted = match count {
        None => bytes.len(),
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|&count| count <= bytes.len())
            .ok_or_else(|| invalid_count(count))?,
    };
    files.write(handle, &bytes[..wanted])?;
    // The request fits into memory, so its length fits into an i64.
    Ok(Outcome::value(&FileWrite { count: i64::try_from(wanted).unwrap_or(i64::MAX), eof: false }))
}

fn seek(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFileSeek { handle, offset, whence } = request.arguments()?;
    let position = files.seek(handle, offset, whence)?;
    Ok(Outcome::value(&FileSeek { position, eof: false }))
}

fn flush(files: &mut FileTable, request: &Request) -> Result<Outcome, QgaError> {
    let GuestFileFlush { handle } = request.arguments()?;
    files.exists(handle)?;
    Ok(Outcome::empty())
}
