//! The host side of the QEMU guest agent: VMs' sockets below, REST above.
//!
//! [`vm`] owns the sockets: it finds them, keeps one task per VM that speaks to the agent, and
//! holds freeze leases. It knows nothing of HTTP.
#![forbid(unsafe_code)]

pub mod api;
pub mod config;
pub mod principal;
pub mod vm;
