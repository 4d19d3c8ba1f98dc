//! The commands of `proto::command::cpu`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
