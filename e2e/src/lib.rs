//! Real VMs for tests, the demo and benches.
//!
//! A test asks for [`Assets`], boots a [`Vm`] in a directory of its own and drives the agent
//! inside either over the bare chardev socket ([`RawAgent`]) or through a gateway ([`Gateway`],
//! [`Rest`]). What the guest's kernel really does is asked through [`Control`], a channel that
//! has nothing to do with the agent and keeps working while every disk is frozen.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use qga_e2e::{Assets, GuestAgent, Vm};
//!
//! let assets = Assets::prepare()?;
//! let dir = tempfile::tempdir()?;
//! let mut vm = Vm::builder(dir.path()).agent(GuestAgent::Stock).boot(&assets)?;
//! let mut agent = vm.raw_agent()?;
//! agent.sync()?;
//! # Ok(()) }
//! ```
//!
//! Spawned programs die with the thread that spawned them, so a VM belongs to one test.

mod accel;
mod assets;
pub mod bare;
mod console;
mod control;
mod cpio;
mod disk;
mod gateway;
mod image;
mod keep_alive;
mod kernel;
mod process;
mod qmp;
mod raw_agent;
mod record;
mod rest;
pub mod sim;
mod target;
mod vm;
mod wait;

pub use assets::{Assets, Programs, missing};
pub use console::Console;
pub use control::{Answer, Ask, Control, GuestLine, HostLine, Progress, RunResult};
pub use disk::{Disk, cat_from_ext4, fingerprint, needs_recovery};
pub use gateway::Gateway;
pub use keep_alive::KeepAlive;
pub use process::Process;
pub use qmp::Qmp;
pub use raw_agent::{AgentError, RawAgent};
pub use record::{RECORD_LENGTH, encode_record, whole_records};
pub use rest::{Reply, Rest};
pub use target::{RestTarget, Target};
pub use vm::{GuestAgent, Vm, VmBuilder};
pub use wait::{interrupt, until};
