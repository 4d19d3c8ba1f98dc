//! `guest-get-memory-blocks`, `guest-set-memory-blocks`, `guest-get-memory-block-info`.

use std::path::Path;

use qga_proto::command::{
    Command as _, GuestGetMemoryBlockInfo, GuestGetMemoryBlocks, GuestSetMemoryBlocks,
    MemoryBlockInfo,
};
use qga_proto::{Outcome, QgaError, Request};

use super::{Handler, Place};
use crate::memory_blocks::{self, BLOCKS};
use crate::{bounded, errno};

pub(super) const HANDLERS: &[Handler] = &[
    Handler { command: GuestGetMemoryBlocks::INFO.name, place: Place::Queries(blocks) },
    Handler { command: GuestSetMemoryBlocks::INFO.name, place: Place::Helpers(set_blocks) },
    Handler { command: GuestGetMemoryBlockInfo::INFO.name, place: Place::Queries(block_info) },
];

fn blocks(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetMemoryBlocks {} = request.arguments()?;
    let found = memory_blocks::list(Path::new(BLOCKS)).map_err(QgaError::generic)?;
    Ok(Outcome::value(&found))
}

fn set_blocks(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestSetMemoryBlocks { mem_blks } = request.arguments()?;
    let results: Vec<_> = mem_blks
        .into_iter()
        .map(|wanted| memory_blocks::set(Path::new(BLOCKS), wanted.phys_index, wanted.online))
        .collect();
    Ok(Outcome::value(&results))
}

fn block_info(_: &mut (), request: &Request) -> Result<Outcome, QgaError> {
    let GuestGetMemoryBlockInfo {} = request.arguments()?;
    let failed = |text: &str| QgaError::generic(format!("open(\"{BLOCKS}/\"): {text}"));
    let text = bounded::read(Path::new(BLOCKS).join("block_size_bytes"), bounded::SMALL)
        .map_err(|e| failed(&errno::of(&e)))?;
    let size = memory_blocks::size(&text).ok_or_else(|| failed("no size"))?;
    Ok(Outcome::value(&MemoryBlockInfo { size }))
}
