//! `docs/getting-started.md`: at its end there is a copy that holds what the guest's writers wrote.

use super::{Host, blocks};
use crate::scenario::{progress, wait_all_writing};
use crate::snapshot::assert_holds;

#[test]
fn ends_with_a_backed_up_vm() {
    let Some(mut host) = Host::start() else { return };
    let before = progress(host.guest.vm.control());
    let page = host.here(&blocks("getting-started.md").concat());
    host.succeeds(&page);
    let after = progress(host.guest.vm.control());
    let images = host.path("/srv/backup/db1");
    assert_holds(&host.guest, |disk| images.join(format!("{disk}.img")), &before, &after);
    assert!(images.join("root.img").exists(), "every disk is copied");
    wait_all_writing(host.guest.vm.control());

    // What the page has made is for those alone who are to have it.
    for secret in ["root/backup.token", "root/backup.header", "etc/qga-gateway/tls/ca.key"] {
        use std::os::unix::fs::PermissionsExt as _;
        let mode = host.place.join(secret).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{secret}");
    }
}
