//! Booting guests for tests, and leaving a line where that is not possible.

use std::sync::OnceLock;

use qga_e2e::{Assets, GuestAgent, Vm, missing};
use tempfile::TempDir;

static ASSETS: OnceLock<Assets> = OnceLock::new();

/// Says why a test does nothing, or fails where everything must run (`QGA_E2E_REQUIRE` set).
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("QGA_E2E_REQUIRE").is_none(), "may not be skipped: {reason}");
    eprintln!("skipped: {reason}");
}

/// What VMs are made of, or `None` after a line that says what is missing.
pub(crate) fn assets() -> Option<&'static Assets> {
    if let Some(reason) = missing() {
        skip(&reason);
        return None;
    }
    Some(ASSETS.get_or_init(|| Assets::prepare().expect("guest assets")))
}

/// A booted VM in a directory that goes with it.
pub(crate) struct Guest {
    // Dropped first: QEMU ends before its directory goes.
    pub(crate) vm: Vm,
    pub(crate) dir: TempDir,
}

impl Guest {
    pub(crate) fn boot(assets: &Assets, agent: GuestAgent) -> Self {
        let dir = tempfile::Builder::new().prefix("qga-e2e-").tempdir().expect("a directory");
        let started = std::time::Instant::now();
        let vm = Vm::builder(dir.path()).agent(agent).boot(assets).expect("a booted guest");
        eprintln!("booted in {:.1} s", started.elapsed().as_secs_f32());
        Self { vm, dir }
    }
}
