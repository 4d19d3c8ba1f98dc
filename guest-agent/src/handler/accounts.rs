//! The commands of `proto::command::accounts`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
