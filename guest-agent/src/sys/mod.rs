//! Everything the agent needs from the kernel that rustix does not offer as a safe call.
//!
//! This is the only part of the agent with `unsafe` in it; each file wraps one facility, and each
//! kernel constant written down here is checked against the C headers' value in a test.

#![expect(unsafe_code, reason = "system calls without a safe wrapper; nowhere else")]

pub(crate) mod activation;
pub(crate) mod descriptor;
pub(crate) mod fsfreeze;
pub(crate) mod fstrim;
pub(crate) mod launch;
pub(crate) mod memory;
pub(crate) mod nvme;
pub(crate) mod process;
pub(crate) mod rtc;
pub(crate) mod signals;
pub(crate) mod spawn;
pub(crate) mod threads;
pub(crate) mod vsock;
