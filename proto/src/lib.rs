//! The QEMU guest agent protocol (QGA), without I/O.
//!
//! Both ends are state machines: feed them bytes and the time, ask them what to send and what
//! happened. [`Server`] is an agent's end of one channel, [`Client`] a host's end of one
//! connection; [`command`] holds what travels between them.
//!
//! * Nothing here reads a clock, opens a file, starts a task or draws a random number.
//! * Nothing that a peer sends can cause a panic, or memory beyond the documented bounds.
//! * Names, numbers and error texts are those of qemu-ga 11.1 on the wire.

#![forbid(unsafe_code)]

pub mod base64;
mod chunk;
mod client;
pub mod command;
mod error;
pub mod json;
mod lines;
mod output;
mod reply;
mod request;
mod scan;
mod server;

pub use self::client::{
    Call, CallId, Client, ClientConfig, ClientEvent, DropReason, NotReady, ReplyError, ReplyText,
    SyncIds,
};
pub use self::error::{ErrorClass, QgaError};
pub use self::request::{Outcome, Request};
pub use self::scan::newline;
pub use self::server::{Job, Server, Ticket};
