//! What shells are told while somebody types.

use std::process::Command;

use qga_e2e::sim::{Blueprint, Mode};
use qga_testing::{program, unavailable};

use super::Cli;
use crate::fleet::{Host, gateway_program};

#[test]
fn bash_completes_ids_of_vms_and_leases() {
    let Some(gateway) = gateway_program() else { return };
    let (host, _machines) = Host::start(&gateway, "", |fleet| {
        ["web-1", "web-2", "db"]
            .map(|name| fleet.machine(name, &Blueprint::new(Mode::Qga)).unwrap())
            .into()
    });
    host.wait_link("db", "ready");
    let cli = Cli::new(&gateway, host.gateway.socket());
    let lease = cli.run(["freeze", "db", "--json"]).json()["id"].as_str().unwrap().to_owned();
    let path =
        format!("{}:{}", gateway.parent().unwrap().display(), std::env::var("PATH").unwrap());
    let complete = |words: &str| {
        // As bash calls the function at a Tab.
        let script = format!(
            "source <(qga-gateway completions bash); COMP_WORDS=(qga-gateway {words}); \
             COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); COMP_TYPE=9; \
             _clap_complete_qga_gateway qga-gateway \"${{COMP_WORDS[COMP_CWORD]}}\" x 2>/dev/null; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let socket = format!("unix:{}", host.gateway.socket().display());
        let mut bash = Command::new("bash");
        bash.args(["-c", &script]).env("PATH", &path).env("QGA_GATEWAY_URL", socket);
        let done = bash.output().unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("vms we"), ["web-1", "web-2"]);
    assert_eq!(complete("exec d"), ["db"]);
    assert_eq!(complete("thaw frz"), [lease.as_str()]);
    assert!(complete("cp web").contains(&"web-1:".to_owned()));
    assert!(complete("free").contains(&"freeze".to_owned()));
    assert_eq!(complete("explain vm_p"), ["vm_paused"]);
    // The way on the command line counts, and one that leads nowhere is no error.
    assert_eq!(complete("vms --socket /nonexistent/api.sock we"), Vec::<String>::new());
}

#[test]
fn each_shell_takes_its_script() {
    let Some(gateway) = gateway_program() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = Command::new(&gateway).args(["completions", shell]).output().unwrap();
        assert!(script.status.success() && !script.stdout.is_empty(), "{shell}");
        let file = dir.path().join(shell);
        std::fs::write(&file, script.stdout).unwrap();
        match program(shell) {
            Some(shell) => {
                assert!(Command::new(shell).arg(check).arg(&file).status().unwrap().success());
            }
            None => unavailable(&format!("no {shell} to look at its completions")),
        }
    }
}
