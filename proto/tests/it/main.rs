//! The protocol as a whole: frozen bytes, a real agent's transcripts, both ends against each
//! other, and hostile input.

mod dependencies;
mod fuzz;
mod pair;
mod server;
mod thaw;
mod transcripts;
mod wire;
