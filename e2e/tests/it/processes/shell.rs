//! The shell in a real terminal, which is tmux.

use std::path::{Path, PathBuf};
use std::process::Command;

use qga_e2e::until;
use qga_testing::missing;

use super::{Here, SOON};

/// A tmux server of its own, with one window.
pub(crate) struct Tmux {
    socket: PathBuf,
}

impl Tmux {
    pub(crate) fn start(dir: &Path) -> Option<Self> {
        if qga_testing::program("tmux").is_none() {
            missing("no tmux; run scripts/install-deps");
            return None;
        }
        let tmux = Self { socket: dir.join("tmux.sock") };
        // At whose end the window stays, so that it can be looked at.
        tmux.run(&["new-session", "-d", "-x", "90", "-y", "30", "bash --norc --noprofile"]);
        Some(tmux)
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        let done = tmux.arg("-S").arg(&self.socket).args(["-f", "/dev/null"]).args(arguments);
        let done = done.output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    pub(crate) fn types(&self, text: &str) {
        self.run(&["send-keys", "-l", text]);
        self.run(&["send-keys", "Enter"]);
    }

    /// Waits until a line of the screen is that.
    pub(crate) fn shows(&self, line: &str) {
        let shown = until(format!("the line {line:?}"), SOON, || {
            let screen = self.run(&["capture-pane", "-p"]);
            Ok(screen.lines().any(|shown| shown.trim_end() == line).then_some(()))
        });
        shown.unwrap_or_else(|e| panic!("{e}: {}", self.run(&["capture-pane", "-p"])));
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        let _ = Command::new("tmux").arg("-S").arg(&self.socket).arg("kill-server").output();
    }
}

#[test]
fn a_shell_in_a_real_terminal() {
    let Some(here) = Here::start("") else { return };
    let Some(tmux) = Tmux::start(here.dir.path()) else { return };
    let gateway = here.program.with_file_name("qga-gateway");
    let (gateway, socket) = (gateway.display(), here.gateway.socket());
    let shell = format!("{gateway} shell vm --socket {}", socket.display());
    let settings = "stty -a | grep -v rows | cksum";
    tmux.types("PS1='$ '; clear");
    tmux.types(&format!("before=$({settings}); {shell} -- sh; printf '\\ncode %s\\n' $?"));
    tmux.types("PS1='in '; stty size");
    tmux.shows("30 90");
    tmux.run(&["resize-window", "-x", "100", "-y", "40"]);
    tmux.types("until [ \"$(stty size)\" = '40 100' ]; do :; done; echo resi''zed");
    tmux.shows("resized");
    // Interrupted by the terminal there, not here.
    tmux.types("echo slee''ping; sleep 1000; echo sle''pt");
    tmux.shows("sleeping");
    tmux.run(&["send-keys", "C-c"]);
    tmux.types("echo ali''ve");
    tmux.shows("alive");
    tmux.types("exit 7");
    tmux.shows("code 7");
    tmux.types(&format!("[ \"$before\" = \"$({settings})\" ] && echo rest''ored"));
    tmux.shows("restored");

    // Away, and back, and then away for good.
    tmux.types(&format!("clear; {shell} -- sh; printf '\\ncode %s\\n' $?"));
    tmux.types("PS1='in '; echo on''ce");
    tmux.shows("once");
    tmux.run(&["send-keys", "-l", "~."]);
    tmux.shows("code 0");
    let list = here.gateway.rest().get("/vms/vm/processes").unwrap().expect(200).unwrap();
    let running = list["processes"].as_array().unwrap().iter().find(|p| p["state"] == "running");
    let pid = running.expect("it goes on")["pid"].as_i64().unwrap();
    tmux.types(&format!("clear; {shell} --attach {pid}; printf '\\ncode %s\\n' $?"));
    tmux.types("echo aga''in");
    tmux.shows("again");
    let client = until("the client", SOON, || {
        let found =
            Command::new("pgrep").args(["-f", "--", &format!("--attach {pid}$")]).output()?;
        let found = String::from_utf8(found.stdout)?;
        Ok(found.lines().last().and_then(|line| line.parse::<i32>().ok()))
    })
    .unwrap();
    Command::new("kill").args(["-TERM", &client.to_string()]).status().unwrap();
    tmux.shows("code 255");
    tmux.types(&format!("[ \"$before\" = \"$({settings})\" ] && echo rest''ored"));
    tmux.shows("restored");
    // Nobody is left to use it, and it has hung up.
    let process = here.until(pid, "the hang-up", |process| process["state"] == "exited");
    assert_eq!(process["signal"], 1, "{process}");
}
