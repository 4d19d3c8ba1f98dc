//! Simulated virtual machines: thousands of agents on Unix sockets in one process.
//!
//! A [`Machine`] is a chardev's socket with a guest and its agent behind it, built on
//! [`qga_proto::Server`]. It knows the [`Truth`] about its guest: what is frozen, since when, by
//! whose command, and what a program in the guest wrote meanwhile. Tests read that, and never ask
//! the gateway whether the gateway is right.
//!
//! What goes wrong is a matter of the test: [`Rule`]s for replies, [`Stop`]s that hold a command
//! until the test has killed something, and the machine's own `kill_agent`, `kill_qemu`, `reset`.
//!
//! ```
//! # fn main() -> anyhow::Result<()> {
//! use qga_e2e::sim::{Blueprint, Fleet, Mode};
//!
//! let dir = tempfile::tempdir()?;
//! let fleet = Fleet::new(dir.path())?;
//! let machine = fleet.machine("web-1", &Blueprint::new(Mode::Qga))?;
//! assert_eq!(machine.truth().frozen, None);
//! # Ok(()) }
//! ```

mod agent;
mod clock;
mod fleet;
mod guest;
mod hostile;
mod machine;
mod qemu;
mod random;
mod script;
mod sink;

pub use self::agent::Mode;
pub use self::clock::Clock;
pub use self::fleet::{Fleet, name, raise_descriptors};
pub use self::guest::{By, Ended, Episode, Filesystem, Kind};
pub use self::hostile::{Attack, Hostile};
pub use self::machine::{Blueprint, Machine, Stop, Truth};
pub use self::qemu::listen_on_stdin;
pub use self::random::Random;
pub use self::script::{Act, Commands, Latency, Moment, Rule};
pub use self::sink::drain;
