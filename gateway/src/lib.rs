//! The host side of the QEMU guest agent: VMs' sockets below, REST above.
//!
//! [`vm`] owns the sockets: it finds them, keeps one task per VM that speaks to the agent, and
//! holds freeze leases. It knows nothing of HTTP. [`api`] turns requests into calls of [`vm`],
//! [`server`] listens, and [`daemon`] is the process.
#![forbid(unsafe_code)]

pub mod api;
pub mod audit;
pub mod client;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod explain;
mod metrics;
pub mod principal;
mod printable;
mod reload;
pub mod replies;
pub mod rights;
pub mod server;
mod share;
pub mod shell;
pub mod store;
pub mod telemetry;
pub mod trace;
pub mod vm;
mod watchdog;
