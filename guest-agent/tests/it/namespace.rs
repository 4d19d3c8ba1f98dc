//! Namespaces of the kernel in which a query finds something to answer, and a command that
//! changes the guest can do no harm.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::bed::{Agent, Bed};

/// Namespaces that live as long as this.
pub(crate) struct Namespace {
    holder: Child,
}

impl Namespace {
    /// New namespaces as `unshare` makes them by `flags`, in which `setup` has run; or the reason
    /// why there are none.
    pub(crate) fn new(flags: &[&str], setup: &str) -> Result<Self, String> {
        let script = format!("set -e\n{setup}\necho ready\nread end || true");
        let mut holder = Command::new("unshare")
            .args(flags)
            .args(["sh", "-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("unshare: {e}"))?;
        let mut ready = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut ready).unwrap();
        if ready == "ready\n" {
            return Ok(Self { holder });
        }
        let _ = holder.wait();
        Err(format!("no namespaces by {flags:?} with this setup"))
    }

    /// An agent that runs in them.
    pub(crate) fn start(&self, bed: &Bed, program: &str) -> Agent {
        self.start_by(bed, &[], program)
    }

    /// An agent that is run in them by a program in front of its command line, such as `env`.
    pub(crate) fn start_by(&self, bed: &Bed, front: &[&str], program: &str) -> Agent {
        let inside = bed.command(program);
        let mut command = Command::new("nsenter");
        command.args(["--preserve-credentials", "-m", "-n", "-U", "-t"]);
        // Those that were not made are the machine's, and entering them changes nothing; only
        // one's own user namespace cannot be entered.
        let own = Path::new("/proc/self/ns/user").read_link().unwrap();
        let theirs = Path::new(&format!("/proc/{}/ns/user", self.holder.id())).read_link();
        if theirs.unwrap() == own {
            command = Command::new("nsenter");
            command.args(["-m", "-n", "-t"]);
        }
        command.arg(self.holder.id().to_string()).args(front).arg(inside.get_program());
        command.args(inside.get_args()).stderr(Stdio::null());
        Agent::spawn(&mut command, &bed.path("socket"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Namespaces with this setup, or a note that the test was skipped.
macro_rules! namespace_or_skip {
    ($flags:expr, $setup:expr) => {
        match $crate::namespace::Namespace::new($flags, $setup) {
            Ok(namespace) => namespace,
            Err(reason) => {
                qga_testing::unavailable(&reason);
                return;
            }
        }
    };
}
pub(crate) use namespace_or_skip;
