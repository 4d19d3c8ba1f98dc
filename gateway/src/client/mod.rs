//! The way from the command line to a gateway: where it is, how to prove who asks, and what it
//! says. The commands know nothing of connections, and this knows nothing of commands.

mod call;
mod connect;
mod failure;
mod place;
mod tls;

pub use call::{Bytes, Request, Streamed, empty, encoded, full, streamed};
pub use connect::Gateway;
pub(crate) use connect::Socket;
pub use failure::{Failure, Refusal};
pub use place::{NoPlace, Place};
pub use tls::{Trust, TrustError};

pub use crate::printable::printable;
