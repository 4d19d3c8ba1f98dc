//! The fault matrix: every fault at every point of a freeze, with both kinds of agent, against the
//! real gateway. What is true of a guest is read from the simulator, never from the gateway.
//!
//! A case starts a gateway and its machines, lets an orchestrator freeze, renew and thaw over HTTP,
//! holds the guest's command at the point in question, does the damage there, and lets go. Then
//! the [`check`] must find nothing wrong. `docs/fault-matrix.md` is what the cases came to.

mod bed;
mod case;
mod check;
mod clock;
mod damage;
mod disk;
mod matrix;
mod orchestrator;
mod random;
mod tear;

pub(crate) use self::disk::SmallDisk;
pub(crate) use self::matrix::may_unshare;
