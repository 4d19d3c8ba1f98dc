//! `docs/recipes.md`: what each recipe restores holds what the guest's writers wrote, and whatever dies
//! on the way, the guest thaws.

use std::fs;

use qga_e2e::Disk;

use super::{Host, blocks};
use crate::scenario::{progress, wait_all_writing};
use crate::snapshot::assert_holds;

/// The page takes a gateway that serves VM `db1` for granted.
const CONFIG: &str = r#"
state_dir = "/var/lib/qga-gateway"
[listen]
unix = "/run/qga-gateway/api.sock"
[[vm]]
id = "db1"
socket = "/run/qga/db1.sock"
"#;

const START: &str = r#"
systemctl restart qga-gateway
api() { curl -sS --unix-socket "$QGA_SOCKET" "$@"; }
ready() { api "http://localhost/vms/db1/wait?for=$1&timeout_seconds=60" | jq -e .met; }
ready agent
"#;

/// Runs a command that must end with a status, after which the guest must thaw.
const ENDS: &str = r#"
ends() {
  local status=0
  "${@:2}" || status=$?
  ((status == $1)) || { echo "${*:2}: status $status, not $1" >&2; exit 1; }
  ready thawed
}
"#;

#[test]
fn what_is_restored_is_what_was_written() {
    let Some(mut host) = Host::start() else { return };
    fs::write(host.path("/etc/qga-gateway/config.toml"), host.here(CONFIG)).unwrap();
    // The page's place for the VM's disks.
    let disks = host.path("/srv/vms/db1");
    fs::create_dir_all(&disks).unwrap();
    for disk in Disk::DATA {
        fs::hard_link(host.guest.vm.image(disk), disks.join(format!("{disk}.img"))).unwrap();
    }

    let before = progress(host.guest.vm.control());
    let page = host.here(&blocks("recipes.md").concat());
    host.succeeds(&format!("{START}{page}"));
    let after = progress(host.guest.vm.control());
    let snapshots = host.path("/srv/snapshots/db1");
    let restored = host.path("/srv/restored-restic").join(snapshots.strip_prefix("/").unwrap());
    let [plain, one] = ["plain", "one-program"].map(|name| host.path("/srv/backup").join(name));
    for copies in [plain, one, restored, host.path("/srv/restored-borg")] {
        let image = |disk| copies.join(format!("{disk}.img"));
        assert_holds(&host.guest, image, &before, &after);
    }
    wait_all_writing(host.guest.vm.control());
    let left = fs::read_dir(snapshots).unwrap().flatten();
    let names: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().ends_with(".img")), "{names:?}");

    whatever_dies_the_guest_thaws(&mut host);
    without_a_freeze_there_is_no_backup(&mut host);
}

fn whatever_dies_the_guest_thaws(host: &mut Host) {
    let cases = r#"
    ends 7 with-frozen db1 sh -c 'exit 7'
    ends 143 with-frozen db1 sh -c 'kill $PPID; exec sleep 60'
    ends 129 with-frozen db1 sh -c 'kill -HUP $PPID; exec sleep 60'
    # Nobody renews any more.
    QGA_TTL=3 ends 137 with-frozen db1 sh -c 'kill -9 $PPID'
    # Longer than its time to live: it is renewed.
    QGA_TTL=6 ends 0 with-frozen db1 sleep 8
    ends 3 with-frozen db1 curl -sS --unix-socket "$QGA_SOCKET" -X DELETE http://localhost/vms/db1/fsfreeze
    ends 1 with-frozen nobody true
    ends 2 with-frozen db1
    # The same of the one program.
    ends 7 qga-gateway freeze db1 -- sh -c 'exit 7'
    ends 137 qga-gateway freeze db1 -- sh -c 'kill -9 $$'
    ends 127 qga-gateway freeze db1 -- /nonexistent/command
    ends 143 qga-gateway freeze db1 -- sh -c 'kill $PPID; exec sleep 60'
    ends 129 qga-gateway freeze db1 -- sh -c 'kill -HUP $PPID; exec sleep 60'
    ends 137 qga-gateway freeze db1 --ttl 3 -- sh -c 'kill -9 $PPID'
    ends 0 qga-gateway freeze db1 --ttl 6 -- sleep 8
    ends 1 qga-gateway freeze nobody -- true
    "#;
    host.succeeds(&format!("{START}{ENDS}{cases}"));
    wait_all_writing(host.guest.vm.control());
}

fn without_a_freeze_there_is_no_backup(host: &mut Host) {
    let cases = host.here(
        r#"
    api --json '{"ttl_seconds": 300}' http://localhost/vms/db1/fsfreeze | jq -er .id
    for tool in backup-restic backup-borg; do
      if "$tool" db1; then exit 1; fi
    done
    api -X DELETE http://localhost/vms/db1/fsfreeze
    export RESTIC_REPOSITORY=/srv/restic RESTIC_PASSWORD_FILE=/srv/restic.password
    [[ $(restic snapshots --json | jq length) == 1 ]]
    export BORG_REPO=/srv/borg BORG_PASSCOMMAND='cat /srv/borg.password'
    [[ $(borg list --json | jq '.archives | length') == 1 ]]
    "#,
    );
    host.succeeds(&format!("{START}{cases}"));
    wait_all_writing(host.guest.vm.control());
}
