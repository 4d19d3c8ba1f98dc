//! The commands of `proto::command::filesystem`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
