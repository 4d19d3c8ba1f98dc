//! The commands of `proto::command::memory`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
