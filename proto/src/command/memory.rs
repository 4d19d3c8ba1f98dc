//! `guest-get-memory-blocks`, `guest-set-memory-blocks`, `guest-get-memory-block-info`.

use serde::{Deserialize, Deserializer, Serialize};

use super::{Command, CommandInfo, Right};

/// `guest-get-memory-blocks`: the blocks of memory and whether they are online (since 2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetMemoryBlocks {}

impl Command for GuestGetMemoryBlocks {
    const INFO: CommandInfo = CommandInfo::query("guest-get-memory-blocks");
    type Return = Vec<MemoryBlock>;
}

/// One block of a guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryBlock {
    /// The kernel's number of it.
    #[serde(deserialize_with = "wrapping")]
    pub phys_index: u64,
    /// Whether it is in use.
    pub online: bool,
    /// Whether it can be taken offline. Ignored when setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_offline: Option<bool>,
}

/// QEMU takes negative numbers for unsigned ones and lets them wrap.
fn wrapping<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Either;
    impl serde::de::Visitor<'_> for Either {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an integer")
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<u64, E> {
            Ok(number.cast_unsigned())
        }

        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<u64, E> {
            Ok(number)
        }
    }
    deserializer.deserialize_u64(Either)
}

/// `guest-set-memory-blocks`: takes blocks on- and offline (since 2.3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GuestSetMemoryBlocks {
    /// What is to be.
    pub mem_blks: Vec<MemoryBlock>,
}

impl Command for GuestSetMemoryBlocks {
    const INFO: CommandInfo = CommandInfo::change("guest-set-memory-blocks", Right::Configure);
    type Return = Vec<MemoryBlockResponse>;
}

/// What became of one block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryBlockResponse {
    /// The kernel's number of it.
    pub phys_index: u64,
    /// The result.
    pub response: MemoryBlockResult,
    /// The errno of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<i64>,
}

/// The result for one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum MemoryBlockResult {
    /// It is as asked.
    Success,
    /// There is no such block.
    NotFound,
    /// The kernel cannot do that.
    OperationNotSupported,
    /// The kernel failed to.
    OperationFailed,
}

/// `guest-get-memory-block-info`: the size of a block (since 2.3).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestGetMemoryBlockInfo {}

impl Command for GuestGetMemoryBlockInfo {
    const INFO: CommandInfo = CommandInfo::query("guest-get-memory-block-info");
    type Return = MemoryBlockInfo;
}

/// What all blocks have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemoryBlockInfo {
    /// Bytes.
    pub size: u64,
}
