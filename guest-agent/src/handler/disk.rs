//! The commands of `proto::command::disk`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
