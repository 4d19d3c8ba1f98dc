//! JSON as QEMU speaks it.
//!
//! Requests are lexed once, while they arrive (`lexer`, `deframer`); the tokens are
//! checked against the grammar (`text`) and then read straight into argument types
//! (`arguments`) with the error texts that clients know. Answers leave through `write`,
//! which prints as QEMU prints.
//!
//! The dialect: single-quoted strings and `\'`, no trailing commas, no duplicate keys, no raw
//! control characters in strings, `\u0000` carried as C0 80. Source: qemu-ga, observed.

mod arguments;
mod deframer;
mod lexer;
mod text;
mod write;

pub(crate) use self::arguments::read as read_arguments;
pub use self::deframer::{Deframer, Framed, MAX_NESTING, MAX_TOKEN_BYTES, MAX_TOKENS, SyntaxError};
pub use self::text::{Text, Value};
pub use self::write::to_wire;
pub(crate) use self::write::write_string;
