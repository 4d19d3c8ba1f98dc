//! Sending the guest to sleep: by systemd, by pm-utils, or by the kernel itself.
//!
//! As in qemu-ga, each way is asked whether it can, and the next one is tried where it cannot or
//! fails. Unlike there, the failure of the last way that could is never lost.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use qga_proto::QgaError;

use crate::{bounded, errno, helper};

/// How long a program may take to answer whether it can.
const ASKING: Duration = Duration::from_secs(30);
/// How long it may take to do it, not counting the sleep itself.
const DOING: Duration = Duration::from_secs(300);

/// A kind of sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sleep {
    /// Everything is written to a disk and the machine goes off.
    Disk,
    /// Memory stays powered.
    Ram,
    /// Both, so that a loss of power does no harm.
    Hybrid,
}

/// Where the means are.
#[derive(Debug)]
pub(crate) struct Means {
    /// The directory with the programs; in a test. Otherwise `PATH` is searched.
    programs: Option<PathBuf>,
    power_state: PathBuf,
}

impl Means {
    /// Those of this system.
    pub(crate) fn of_system() -> Self {
        Self { programs: None, power_state: "/sys/power/state".into() }
    }

    /// Sleeps; returns after the guest has woken up, or, where a service does it, earlier.
    pub(crate) fn suspend(&self, sleep: Sleep) -> Result<(), QgaError> {
        let unsupported = "the requested suspend mode is not supported by the guest";
        let mut failure = QgaError::generic(unsupported);
        for way in [Self::by_systemd, Self::by_pm_utils, Self::by_kernel] {
            match way(self, sleep) {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => failure = error,
                None => {}
            }
        }
        Err(failure)
    }

    /// A unit that is loaded but does not run makes `systemctl status` end with 1 to 3; one that
    /// is not there, with 4.
    fn by_systemd(&self, sleep: Sleep) -> Option<Result<(), QgaError>> {
        let (unit, verb) = match sleep {
            Sleep::Disk => ("systemd-hibernate", "hibernate"),
            Sleep::Ram => ("systemd-suspend", "suspend"),
            Sleep::Hybrid => ("systemd-hybrid-sleep", "hybrid-sleep"),
        };
        let systemctl = self.program("systemctl");
        let answer = helper::exit_code(&[&systemctl, "status", unit], ASKING)?;
        (1..=3).contains(&answer).then(|| helper::run(&[&systemctl, verb], "suspend", DOING))
    }

    fn by_pm_utils(&self, sleep: Sleep) -> Option<Result<(), QgaError>> {
        let (flag, program) = match sleep {
            Sleep::Disk => ("--hibernate", "pm-hibernate"),
            Sleep::Ram => ("--suspend", "pm-suspend"),
            Sleep::Hybrid => ("--suspend-hybrid", "pm-suspend-hybrid"),
        };
        let answer = helper::exit_code(&[&self.program("pm-is-supported"), flag], ASKING)?;
        (answer == 0).then(|| helper::run(&[&self.program(program)], "suspend", DOING))
    }

    fn by_kernel(&self, sleep: Sleep) -> Option<Result<(), QgaError>> {
        let word = match sleep {
            Sleep::Disk => "disk",
            Sleep::Ram => "mem",
            Sleep::Hybrid => return None,
        };
        let known = bounded::read(&self.power_state, bounded::SMALL).ok()?;
        let known = known.split(u8::is_ascii_whitespace).any(|known| known == word.as_bytes());
        known.then(|| self.write_power_state(word).map_err(|e| failed(&e)))
    }

    fn write_power_state(&self, word: &str) -> io::Result<()> {
        OpenOptions::new().write(true).open(&self.power_state)?.write_all_at(word.as_bytes(), 0)
    }

    fn program(&self, name: &str) -> String {
        match &self.programs {
            Some(directory) => directory.join(name).display().to_string(),
            None => name.to_owned(),
        }
    }
}

fn failed(e: &io::Error) -> QgaError {
    QgaError::generic(format!("failed to write to /sys/power/state: {}", errno::of(e)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    /// Programs that write down how they were called, and end as told.
    struct Machine {
        dir: tempfile::TempDir,
    }

    impl Machine {
        fn new(power_state: Option<&str>) -> Self {
            let dir = tempfile::tempdir().unwrap();
            if let Some(words) = power_state {
                std::fs::write(dir.path().join("state"), words).unwrap();
            }
            Self { dir }
        }

        fn program(self, name: &str, script: &str) -> Self {
            let path = self.dir.path().join(name);
            let log = self.dir.path().join("log");
            let text = format!("#!/bin/sh\necho {name} \"$@\" >> {}\n{script}\n", log.display());
            // A script being written must not be inherited by a fork of another test's thread.
            std::fs::write(self.dir.path().join("new"), text).unwrap();
            let copied = std::process::Command::new("cp")
                .arg(self.dir.path().join("new"))
                .arg(&path)
                .status();
            assert!(copied.unwrap().success());
            std::fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
            self
        }

        fn suspend(&self, sleep: Sleep) -> Result<(), String> {
            let means = Means {
                programs: Some(self.dir.path().to_owned()),
                power_state: self.dir.path().join("state"),
            };
            means.suspend(sleep).map_err(|error| error.desc)
        }

        fn log(&self) -> Vec<String> {
            let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            log.lines().map(str::to_owned).collect()
        }

        fn state(&self) -> String {
            std::fs::read_to_string(self.dir.path().join("state")).unwrap()
        }
    }

    const UNSUPPORTED: &str = "the requested suspend mode is not supported by the guest";

    #[test]
    fn systemd_comes_first() {
        let machine = Machine::new(Some("freeze mem disk\n"))
            .program("systemctl", "case $1 in status) exit 3; esac")
            .program("pm-is-supported", "exit 0");
        for (sleep, unit, verb) in [
            (Sleep::Disk, "systemd-hibernate", "hibernate"),
            (Sleep::Ram, "systemd-suspend", "suspend"),
            (Sleep::Hybrid, "systemd-hybrid-sleep", "hybrid-sleep"),
        ] {
            machine.suspend(sleep).unwrap();
            let log = machine.log();
            let expected = [format!("systemctl status {unit}"), format!("systemctl {verb}")];
            assert_eq!(log[log.len() - 2..], expected);
        }
        assert_eq!(machine.log().len(), 6);
        assert_eq!(machine.state(), "freeze mem disk\n");
    }

    #[test]
    fn pm_utils_come_second_and_the_kernel_last() {
        let machine = Machine::new(Some("freeze mem disk\n"))
            .program("systemctl", "case $1 in status) exit 3; esac; exit 1")
            .program("pm-is-supported", "test $1 = --suspend-hybrid")
            .program("pm-suspend-hybrid", "exit 0");
        machine.suspend(Sleep::Hybrid).unwrap();
        assert_eq!(machine.log()[2..], ["pm-is-supported --suspend-hybrid", "pm-suspend-hybrid"]);
        machine.suspend(Sleep::Ram).unwrap();
        assert!(machine.state().starts_with("mem"));
    }

    #[test]
    fn failures_and_guests_that_cannot() {
        let machine = Machine::new(Some("freeze mem\n"));
        assert_eq!(machine.suspend(Sleep::Disk).unwrap_err(), UNSUPPORTED);
        assert_eq!(machine.suspend(Sleep::Hybrid).unwrap_err(), UNSUPPORTED);
        assert_eq!(Machine::new(None).suspend(Sleep::Ram).unwrap_err(), UNSUPPORTED);
        // 4: there is no such unit.
        let machine = Machine::new(None).program("systemctl", "exit 4");
        assert_eq!(machine.suspend(Sleep::Ram).unwrap_err(), UNSUPPORTED);
        assert_eq!(machine.log().len(), 1);
        let machine =
            Machine::new(None).program("systemctl", "test $1 = status && exit 3; echo no; exit 1");
        let text = "child process has failed to suspend: no\n";
        assert_eq!(machine.suspend(Sleep::Ram).unwrap_err(), text);
    }
}
