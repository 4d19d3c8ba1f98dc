//! The commands of `proto::command::identity`.

use super::Handler;

pub(super) const HANDLERS: &[Handler] = &[];
