//! While filesystems are frozen: programs go on, and nobody asks about them.

use qga_proto::command::{COMMANDS, Known, OutputStream, XExecStart};

use super::{news, output_until, read, sh, start};
use crate::bed::wait_for;
use crate::cell::cell_or_skip;

#[test]
fn programs_go_on_and_their_output_waits() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.add_shell();
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let script = "echo begun; while [ ! -e /run/go ]; do :; done; echo went on; exit 4";
    let program = XExecStart { argv: vec!["/bin/sh".into(), "-c".into(), script.into()], ..sh("") };
    let handle = start(&mut client, &program);
    output_until(&mut client, handle, "begun\n");
    // A wait on its way gives way to the freeze.
    client.send(format!(
        "{{'execute':'x-guest-exec-wait','arguments':{{'programs':[{{'handle':{handle},'end':true}}],\
         'wait-ms':60000}}}}"
    ));
    assert_eq!(client.ask("{'execute':'guest-fsfreeze-freeze'}"), "{\"return\": {\"ready\": []}}");
    assert_eq!(client.line(), "{\"return\": 1}");
    for info in COMMANDS.iter().filter(|info| info.name.starts_with("x-guest-exec-")) {
        let answer = client.call(info.name, "");
        assert!(answer.contains("has been disabled: the command is not allowed"), "{answer}");
    }
    std::fs::write(cell.path("/run/go"), "").unwrap();
    wait_for("its end", || {
        let children = std::fs::read_dir(format!("/proc/{}/task", agent.child.id())).unwrap();
        let any = children.flatten().any(|task| {
            let children =
                std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            children.split_whitespace().any(|pid| super::is_alive(pid.parse().unwrap()))
        });
        (!any).then_some(())
    });
    assert_eq!(client.get("guest-fsfreeze-thaw", ""), "1");
    let end = news(&mut client, Known { handle, end: Some(true), ..Known::default() });
    assert_eq!(end.exitcode, Some(4));
    let output = read(&mut client, handle, OutputStream::Stdout, 0);
    assert_eq!((output.buf_b64.0.as_slice(), output.eof), (&b"begun\nwent on\n"[..], true));
}
