//! A large file up into a VM and down again, by curl, with both agents: the digests match, and the
//! gateway's memory stays where it was.
//!
//! `make large` does it with a GiB. Under emulation that takes minutes, most of them for the digest
//! in the guest, so `make test` does it with less.

use std::env;
use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use qga_e2e::until;

use crate::guests::{Kind, Served, both_agents};
use crate::hostile::resident;

/// As long as a guest under emulation may take over a digest of all of it.
const DIGESTED: Duration = Duration::from_secs(900);
/// What a transfer may cost the gateway, however long it is.
const MEMORY: u64 = 16 << 20;

both_agents!(large);

fn large(kind: Kind) {
    let told = env::var("QGA_LARGE_MIB").ok().map(|text| text.parse::<u64>().expect("a number"));
    let usual = if matches!(kind, Kind::Ours) { 96 } else { 24 };
    let size = told.unwrap_or(usual) << 20;
    let Some(mut served) = Served::start_with(kind, size + size / 16) else { return };
    let dir = served.guest.dir().to_owned();
    let (up, down) = (dir.join("up.bin"), dir.join("down.bin"));
    let made = Command::new("sh")
        .args(["-c", &format!("head -c {size} /dev/urandom >\"$0\"")])
        .arg(&up)
        .status()
        .unwrap();
    assert!(made.success());
    let socket = served.gateway.socket();
    let url = "http://localhost/vms/vm/files/content?path=/var/large.bin";
    let curl = |arguments: &[&str]| {
        let begun = Instant::now();
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--fail-with-body", "--unix-socket"]).arg(&socket);
        let output = curl.args(arguments).arg(url).output().expect("curl runs");
        if !output.status.success() {
            let said = fs::read_to_string(&down).unwrap_or_default();
            panic!("{arguments:?}: {output:?} {said}");
        }
        begun.elapsed()
    };
    let before = resident(&served.gateway);
    let took = curl(&["-T", up.to_str().unwrap()]);
    let control = served.guest.vm.control();
    let digest = "(sha256sum /var/large.bin >/run/digest.new; mv /run/digest.new /run/digest) \
                  >/dev/null 2>&1 &";
    control.output(digest).unwrap();
    let took_back = curl(&["-o", down.to_str().unwrap()]);
    let after = resident(&served.gateway);
    println!("{kind:?}: {} MiB up in {took:.1?}, down in {took_back:.1?}", size >> 20);
    assert!(after < before + MEMORY, "{before} to {after} bytes");

    let same = Command::new("cmp").arg(&up).arg(&down).output().unwrap();
    assert!(same.status.success(), "{same:?}");
    fs::remove_file(&down).unwrap();
    let control = served.guest.vm.control();
    let in_guest = until("the digest in the guest", DIGESTED, || {
        Ok(Some(control.output("cat /run/digest 2>/dev/null || :")?).filter(|text| text.len() > 64))
    })
    .unwrap();
    let here = Command::new("sha256sum").arg(&up).output().unwrap().stdout;
    assert_eq!(in_guest.as_bytes()[..64], here[..64]);
}
