//! The commands of `proto::command::exec`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
