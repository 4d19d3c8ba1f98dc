//! The agent as its clients see it: the real binary, over a real socket, on a real kernel.

mod bed;
mod cell;
mod clients;
mod files;
mod freeze;
mod interop;
mod process;
mod stuck;
mod wire;
