//! Three minutes of `make soak`: everything goes wrong now and then, and nothing is left of it.

use std::process::Command;

use crate::fleet::gateway_program;

/// In seconds; load and faults are as in an hour.
const LENGTH: &str = "180";
/// A quarter of what `make soak` has: other tests run beside it.
const VMS: &str = "250";

#[test]
fn three_minutes() {
    let Some(program) = gateway_program() else { return };
    let mut soak = Command::new(env!("CARGO_BIN_EXE_qga-soak"));
    soak.args(["--vms", VMS, "--seconds", LENGTH, "--rate", "30", "--gateway"]).arg(program);
    if let Ok(seed) = std::env::var("QGA_SEED") {
        soak.args(["--seed", &seed]);
    }
    let done = soak.output().unwrap();
    let text = String::from_utf8_lossy(&done.stdout);
    println!("{text}");
    assert!(done.status.success(), "{text}\n{}", String::from_utf8_lossy(&done.stderr));
    assert!(text.contains("all well"), "{text}");
}
