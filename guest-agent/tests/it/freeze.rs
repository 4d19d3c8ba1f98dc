//! Freeze and thaw of real filesystems.

use rustix::process::Signal;

use crate::cell::{available, cell_or_skip};

const FREEZE: &str = "guest-fsfreeze-freeze";
const LIST: &str = "guest-fsfreeze-freeze-list";
const THAW: &str = "guest-fsfreeze-thaw";
const STATUS: &str = "guest-fsfreeze-status";

#[test]
fn freezes_and_thaws_every_filesystem_on_a_block_device() {
    let cell = cell_or_skip!();
    let types: Vec<_> = ["ext4", "xfs", "btrfs"].into_iter().filter(|t| available(t)).collect();
    for fs_type in &types {
        cell.mount(fs_type, &format!("/mnt/{fs_type}"));
    }
    let count = types.len().to_string();
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let marker = cell.path("/run/qga.state.isfrozen");
    assert_eq!(client.get(STATUS, ""), "\"thawed\"");
    assert_eq!(client.get(FREEZE, ""), count);
    assert!(marker.exists());
    assert_eq!(client.get(STATUS, ""), "\"frozen\"");

    let mut writers: Vec<_> =
        types.iter().map(|fs_type| cell.blocked_writer(&format!("/mnt/{fs_type}/f"))).collect();

    // Exactly qemu-ga's six commands run, and our four about the freeze.
    let info = client.get("guest-info", "");
    assert_eq!(info.matches("\"enabled\": true").count(), 10, "{info}");
    assert_eq!(info.matches("\"name\": \"x-guest-fsfreeze-").count(), 4, "{info}");
    assert_eq!(client.get("guest-sync", "{\"id\":5}"), "5");
    assert_eq!(client.call("guest-sync-delimited", "{\"id\":5}"), "<FF>{\"return\": 5}");
    assert_eq!(client.get("guest-ping", ""), "{}");
    for command in [FREEZE, LIST, "guest-file-close", "guest-shutdown"] {
        let text = format!("Command {command} has been disabled: the command is not allowed");
        let answer = client.call(command, "{\"handle\":1}");
        assert!(answer.contains(&text) && answer.contains("CommandNotFound"), "{answer}");
    }

    assert_eq!(client.get(THAW, ""), count);
    assert!(!marker.exists());
    assert_eq!(client.get(STATUS, ""), "\"thawed\"");
    writers.iter_mut().for_each(super::cell::Writer::wait_until_done);
    assert_eq!(client.get(THAW, ""), "0");
}

#[test]
fn a_killed_agent_leaves_a_frozen_guest_that_the_next_one_thaws() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let mut agent = cell.start(&[]);
    assert_eq!(agent.connect().get(FREEZE, ""), "1");
    agent.signal(Signal::TERM);
    agent.signal(Signal::INT);
    assert_eq!(agent.connect().get(STATUS, ""), "\"frozen\"");
    agent.kill();

    let mut agent = cell.start(&["-l", "/mnt/a/log", "-v"]);
    let mut client = agent.connect();
    assert_eq!(client.get(STATUS, ""), "\"frozen\"");
    let mut writer = cell.blocked_writer("/mnt/a/f");
    assert_eq!(client.get(THAW, ""), "1");
    writer.wait_until_done();
    assert!(!cell.path("/run/qga.state.isfrozen").exists());
    assert!(cell.path("/mnt/a/log").exists());
    drop(client);
    agent.signal(Signal::TERM);
    assert_eq!(agent.wait_for_exit().code(), Some(0));
}

#[test]
fn a_list_names_filesystems_in_any_way_or_is_refused() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.mount("ext4", "/mnt/b c");
    cell.sh("mkdir $ROOT/mnt/a/dir $ROOT/mnt/bind
             mount --bind $ROOT/mnt/a/dir $ROOT/mnt/bind
             ln -s a $ROOT/mnt/link
             ln -s a/dir $ROOT/mnt/inside");
    let btrfs = available("btrfs");
    if btrfs {
        cell.mount("btrfs", "/mnt/btrfs");
        cell.sh("btrfs -q subvolume create $ROOT/mnt/btrfs/sub
                 mkdir $ROOT/mnt/sub
                 dev=$(findmnt -no SOURCE $ROOT/mnt/btrfs)
                 mount -o subvol=sub $dev $ROOT/mnt/sub");
    }
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let mut cases = vec![
        ("[\"/mnt/a\"]", "1"),
        ("[\"/mnt/a/\"]", "1"),
        ("[\"/mnt/bind\"]", "1"),
        ("[\"/mnt/link\"]", "1"),
        ("[\"/mnt/../mnt/b c//\"]", "1"),
        ("[\"/mnt/a\", \"/mnt/bind\", \"/mnt/link\"]", "1"),
        ("[\"/mnt/b c\", \"/mnt/a\"]", "2"),
        ("[]", "0"),
    ];
    if btrfs {
        cases.extend([
            ("[\"/mnt/btrfs/sub\"]", "1"),
            ("[\"/mnt/sub\"]", "1"),
            ("[\"/mnt/btrfs\"]", "1"),
        ]);
    }
    for (list, count) in cases {
        let frozen = client.get(LIST, &format!("{{\"mountpoints\":{list}}}"));
        assert_eq!(frozen, count, "{list}");
        assert_eq!(client.get(THAW, ""), count, "{list}");
    }
    for (path, why) in [
        ("/nowhere", "No such file or directory"),
        ("/mnt/a/dir", "it is not a mount point"),
        ("/mnt/inside", "it is not a mount point"),
        ("/run", "it is not a mount point"),
        ("/proc", "its filesystem (proc) has no block device"),
        ("/", "its filesystem (tmpfs) has no block device"),
    ] {
        let list = format!("{{\"mountpoints\":[\"/mnt/a\", \"{path}\"]}}");
        assert_eq!(client.error(LIST, &list), format!("failed to freeze {path}: {why}"));
        assert_eq!(client.get(STATUS, ""), "\"thawed\"");
    }
    // Without a list, or without its argument, everything is meant.
    let all = if btrfs { "3" } else { "2" };
    assert_eq!(client.get(LIST, ""), all);
    assert_eq!(client.get(THAW, ""), all);
}

#[test]
fn one_that_fails_brings_back_all_others() {
    let cell = cell_or_skip!();
    // What is mounted first of this device is the node of a device that does not exist.
    cell.sh("truncate -s 32M $OUTER/images/odd
             mkfs.ext4 -q $OUTER/images/odd
             mkdir $OUTER/odd
             mount -o loop $OUTER/images/odd $OUTER/odd
             mknod $OUTER/odd/node c 240 99
             touch $ROOT/mnt/node
             mount --bind $OUTER/odd/node $ROOT/mnt/node");
    cell.mount("ext4", "/mnt/a");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    let text = "failed to open /mnt/node: No such device or address";
    assert_eq!(client.error(FREEZE, ""), text);
    assert_eq!(client.get(STATUS, ""), "\"thawed\"");
    assert!(!cell.path("/run/qga.state.isfrozen").exists());
    cell.writer("/mnt/a/f").wait_until_done();
}

#[test]
fn what_is_frozen_already_does_not_count_but_is_thawed() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.mount("ext4", "/mnt/b");
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    cell.sh("fsfreeze -f $ROOT/mnt/a");
    assert_eq!(client.get(FREEZE, ""), "1");
    assert_eq!(client.get(THAW, ""), "2");
    cell.sh("fsfreeze -f $ROOT/mnt/a");
    let only = client.get(LIST, "{\"mountpoints\":[\"/mnt/a\"]}");
    // Nothing was frozen, so the agent is not in the frozen state.
    assert_eq!((only.as_str(), client.get(STATUS, "").as_str()), ("0", "\"thawed\""));
    assert_eq!(client.get(THAW, ""), "1");
}

#[test]
fn the_state_directory_is_never_frozen() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    cell.mount("ext4", "/mnt/b");
    cell.sh("mkdir $ROOT/mnt/a/state");
    let agent = cell.start(&["-t", "/mnt/a/state"]);
    let mut client = agent.connect();
    let text = client.error(FREEZE, "");
    assert!(text.starts_with("failed to freeze /mnt/a: the agent's state directory"), "{text}");
    assert_eq!(client.get(LIST, "{\"mountpoints\":[\"/mnt/b\"]}"), "1");
    assert_eq!(client.get(THAW, ""), "1");
}

#[test]
fn the_log_is_silent_while_frozen_and_catches_up() {
    let cell = cell_or_skip!();
    cell.mount("ext4", "/mnt/a");
    let agent = cell.start(&["-v", "-l", "/mnt/a/log"]);
    let log = cell.path("/mnt/a/log");
    let mut client = agent.connect();
    assert_eq!(client.get(FREEZE, ""), "1");
    let before = std::fs::read_to_string(&log).unwrap();
    assert!(before.contains("disabling logging due to filesystem freeze"), "{before}");
    assert_eq!(client.get(THAW, ""), "1");
    let after = crate::bed::wait_for("the log to catch up", || {
        let text = std::fs::read_to_string(&log).unwrap();
        text.contains("logging re-enabled due to filesystem unfreeze").then_some(text)
    });
    assert!(after.starts_with(&before) && after.contains("info: guest-fsthaw called"), "{after}");
}

#[test]
fn shutdown_runs_the_guests_own_programs() {
    let cell = cell_or_skip!();
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    assert_eq!(
        client.error("guest-shutdown", ""),
        "child process has failed to shutdown: failed to exec '/sbin/shutdown': \
         No such file or directory"
    );
    // The only program in there is the agent: it fails without a port.
    cell.sh("mkdir -p $ROOT/var/run; cp $ROOT/qga-agent $ROOT/sbin/poweroff");
    let text = client.error("guest-shutdown", "{\"mode\":\"powerdown\"}");
    assert!(text.starts_with("child process has failed to shutdown: "), "{text}");
    assert!(text.contains("error opening channel '/dev/virtio-ports/"), "{text}");
    // And succeeds when asked for its version: then there is no reply at all.
    cell.sh("printf '#!/qga-agent --version\\n' > $ROOT/sbin/reboot
             chmod +x $ROOT/sbin/reboot");
    client.send("{'execute':'guest-shutdown','arguments':{'mode':'reboot'}}");
    assert_eq!(client.get("guest-ping", ""), "{}");
}

#[test]
fn a_shutdown_calls_the_program_of_its_mode_or_shutdown_with_its_flag() {
    const BUSYBOX: &str = "/usr/bin/busybox";
    let cell = cell_or_skip!();
    if !std::path::Path::new(BUSYBOX).exists() {
        return qga_testing::missing("no busybox; run scripts/install-deps");
    }
    let agent = cell.start(&[]);
    let mut client = agent.connect();
    // Says how it was called and fails, so that the answer tells.
    cell.sh(&format!(
        "cp {BUSYBOX} $ROOT/sbin/busybox
         cat >$ROOT/sbin/shutdown <<'EOF'
#!/sbin/busybox sh
printf '<%s>' \"$0\" \"$@\"
exit 1
EOF
         chmod +x $ROOT/sbin/shutdown"
    ));
    let mut said = |mode: &str| {
        let text = client.error("guest-shutdown", mode);
        text.strip_prefix("child process has failed to shutdown: ").unwrap_or(&text).to_owned()
    };
    let modes = [
        ("{}", "poweroff", "-P"),
        ("{\"mode\":\"powerdown\"}", "poweroff", "-P"),
        ("{\"mode\":\"halt\"}", "halt", "-H"),
        ("{\"mode\":\"reboot\"}", "reboot", "-r"),
    ];
    for (mode, _, flag) in modes {
        let call = format!("</sbin/shutdown><-h><{flag}><+0><hypervisor initiated shutdown>");
        assert_eq!(said(mode), call, "{mode}");
    }
    cell.sh("cd $ROOT/sbin; for name in poweroff halt reboot; do cp shutdown $name; done");
    for (mode, program, _) in modes {
        assert_eq!(said(mode), format!("</sbin/{program}>"), "{mode}");
    }
}
