//! The commands of `proto::command::network`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
