//! What problem codes and link states mean, where no gateway is.

use super::Cli;
use crate::fleet::gateway_program;

#[test]
fn codes_and_states_are_explained_without_a_gateway() {
    let Some(program) = gateway_program() else { return };
    let cli = Cli::new(&program, "/nonexistent/api.sock".into());
    let code = cli.run(["explain", "agent_timeout"]).ok();
    assert!(code.starts_with("`agent_timeout` (504)\n") && code.contains("**Do:**"), "{code}");
    assert_eq!(cli.run(["explain", "urn:qga:problem:agent_timeout"]).ok(), code);
    assert!(cli.run(["explain", "silent"]).ok().starts_with("State `silent`\n"));
    let all = cli.run(["explain"]).ok();
    assert!(all.lines().any(|word| word == "vm_frozen") && !all.contains(' '), "{all}");
    cli.run(["explain", "agent_time"]).fails(2, &["`agent_time`", "explain lists them"]);

    let man = tempfile::tempdir().unwrap();
    cli.run([std::ffi::OsStr::new("man"), man.path().as_os_str()]).ok();
    let page = std::fs::read_to_string(man.path().join("qga-gateway-explain.8")).unwrap();
    assert!(page.contains("agent_timeout"), "{page}");
}
