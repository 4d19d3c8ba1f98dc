//! Booting guests for tests, and leaving a line where that is not possible.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use qga_e2e::{Assets, Disk, Gateway, GuestAgent, RestTarget, Target, Vm, missing, until};
use qga_testing::missing as skip;
use tempfile::TempDir;

/// For anything that happens in a guest under emulation on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(30);

static ASSETS: OnceLock<Assets> = OnceLock::new();

/// Which agent a test runs against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Ours,
    Stock,
}

/// Makes one test per kind of agent out of `fn scenario(kind: Kind)`.
macro_rules! both_agents {
    ($scenario:ident) => {
        mod $scenario {
            use crate::guests::Kind;

            #[test]
            fn ours() {
                super::$scenario(Kind::Ours);
            }

            #[test]
            fn stock() {
                super::$scenario(Kind::Stock);
            }
        }
    };
}
pub(crate) use both_agents;

/// Whether this machine can run VMs; if not, after a line that says what is missing.
pub(crate) fn possible() -> bool {
    missing().map(|reason| skip(&reason)).is_none()
}

/// What VMs are made of, or `None` after a line that says what is missing.
pub(crate) fn assets() -> Option<&'static Assets> {
    if !possible() {
        return None;
    }
    Some(ASSETS.get_or_init(|| Assets::prepare().expect("guest assets")))
}

/// A booted VM in a directory that goes with it.
pub(crate) struct Guest {
    // Dropped first: QEMU ends before its directory goes.
    pub(crate) vm: Vm,
    dir: TempDir,
}

impl Guest {
    /// Boots a guest whose agent answers soon; `None` after a line that says what is missing.
    pub(crate) fn boot(kind: Kind) -> Option<Self> {
        Self::boot_with(kind, 0)
    }

    /// The same with so many bytes more on its root disk.
    pub(crate) fn boot_with(kind: Kind, room: u64) -> Option<Self> {
        let assets = assets()?;
        let agent = match (kind, &assets.programs.agent) {
            (Kind::Stock, _) => GuestAgent::Stock,
            (Kind::Ours, Some(binary)) => GuestAgent::Ours(binary.clone()),
            (Kind::Ours, None) => {
                skip("no qga-agent; run cargo build --profile agent -p qga-agent");
                return None;
            }
        };
        let dir = tempfile::Builder::new().prefix("qga-e2e-").tempdir().expect("a directory");
        let started = Instant::now();
        let mut vm =
            Vm::builder(dir.path()).agent(agent).room(room).boot(assets).expect("a booted guest");
        eprintln!("{kind:?} booted in {:.1} s", started.elapsed().as_secs_f32());
        for disk in Disk::DATA {
            vm.control().wait_writing(disk, SOON).expect("a writer");
        }
        Some(Self { vm, dir })
    }

    /// A directory for whatever belongs to this guest.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// A guest behind a gateway, as VM `vm`.
pub(crate) struct Served {
    pub(crate) gateway: Gateway,
    pub(crate) guest: Guest,
    pub(crate) target: RestTarget,
}

impl Served {
    /// Boots a guest and waits until the gateway has found its agent; `None` as [`Guest::boot`].
    pub(crate) fn start(kind: Kind) -> Option<Self> {
        Self::start_with(kind, 0)
    }

    /// The same with so many bytes more on the guest's root disk.
    pub(crate) fn start_with(kind: Kind, room: u64) -> Option<Self> {
        let program = gateway_program()?;
        let guest = Guest::boot_with(kind, room)?;
        let gateway = start_gateway(&program, &guest);
        let target = RestTarget { rest: gateway.rest(), vm: "vm".to_owned() };
        let mut served = Self { gateway, guest, target };
        served.wait_link("ready");
        served.target.ping().expect("a ping");
        Some(served)
    }

    /// Waits until the gateway says that the link is in `state`.
    pub(crate) fn wait_link(&self, state: &str) {
        let mut last = String::new();
        until(format_args!("link state {state}"), Duration::from_secs(60), || {
            last = self.target.link_state()?;
            Ok((last == state).then_some(()))
        })
        .unwrap_or_else(|error| {
            panic!("{error}; last was {last}; the gateway's log:\n{}", self.gateway.log())
        });
    }
}

/// The gateway's program, or `None` after a line that says how to build it.
pub(crate) fn gateway_program() -> Option<PathBuf> {
    let program = assets()?.programs.gateway.clone();
    if program.is_none() {
        skip("no qga-gateway; run cargo build -p qga-gateway");
    }
    program
}

/// Starts a gateway that knows `guest` as VM `vm`.
pub(crate) fn start_gateway(program: &Path, guest: &Guest) -> Gateway {
    Gateway::start(program, guest.dir(), &[("vm", guest.vm.qga_socket())]).expect("a gateway")
}
