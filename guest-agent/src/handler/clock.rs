//! The commands of `proto::command::clock`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
