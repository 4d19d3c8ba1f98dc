//! Commands that change what only a machine of its own has: processors, memory, clocks, disks. What
//! our agent answers, Debian's does too, but for what stands here by kind.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use qga_e2e::{AgentError, Control, Disk, RawAgent, until};
use serde_json::{Value, json};

use crate::guests::{Guest, Kind, SOON, both_agents};
use crate::leases;

both_agents!(families);

fn families(kind: Kind) {
    let Some(mut guest) = Guest::boot(kind) else { return };
    let mut agent = guest.vm.raw_agent().unwrap();
    agent.sync().unwrap();
    processors(&mut agent, guest.vm.control());
    memory_blocks(&mut agent, guest.vm.control());
    clocks(kind, &mut agent, guest.vm.control());
    loopback(&mut agent, guest.vm.control());
    addresses(&mut agent, guest.vm.control());
    trim(&mut agent, &mut guest);
    if matches!(kind, Kind::Ours) {
        leases::hold_and_end(&mut guest, &mut agent);
    }
}

fn call(agent: &mut RawAgent, command: &str, arguments: &Value) -> Value {
    agent.call(command, arguments).unwrap_or_else(|e| panic!("{command} {arguments}: {e}"))
}

fn processors(agent: &mut RawAgent, control: &mut Control) {
    const ONLINE: &str = "cat /sys/devices/system/cpu/online";
    let mut switch = |online: bool, kernel: &str| {
        let second = json!({ "vcpus": [{ "logical-id": 1, "online": online }] });
        assert_eq!(call(agent, "guest-set-vcpus", &second), 1);
        assert_eq!(control.output(ONLINE).unwrap(), kernel);
        let found = call(agent, "guest-get-vcpus", &json!({}));
        assert_eq!(found.as_array().unwrap().len(), 2, "{found}");
        for (id, online, can_offline) in [(0, true, false), (1, online, true)] {
            let wanted = json!({ "logical-id": id, "online": online, "can-offline": can_offline });
            assert!(found.as_array().unwrap().contains(&wanted), "{found}");
        }
        let counted = call(agent, "guest-get-cpustats", &json!({}));
        assert_eq!(counted.as_array().unwrap().len(), 1 + usize::from(online), "{counted}");
    };
    switch(true, "0-1");
    switch(false, "0");
    switch(true, "0-1");
    let first = json!({ "vcpus": [{ "logical-id": 0, "online": false }] });
    let refused = agent.call("guest-set-vcpus", &first).unwrap_err();
    assert_eq!(text(&refused), "logical processor #0 can't be offlined");
    assert_eq!(control.output(ONLINE).unwrap(), "0-1");
}

/// The block of the memory that was plugged in, which nothing uses yet.
fn memory_blocks(agent: &mut RawAgent, control: &mut Control) {
    let size = call(agent, "guest-get-memory-block-info", &json!({}))["size"].as_u64().unwrap();
    assert_eq!(size, 128 << 20);
    let blocks = call(agent, "guest-get-memory-blocks", &json!({}));
    eprintln!("memory: {blocks}");
    let blocks = blocks.as_array().unwrap();
    let listed = control.output("ls -d /sys/devices/system/memory/memory[0-9]* | wc -l").unwrap();
    assert_eq!(blocks.len().to_string(), listed);
    let plugged = blocks.iter().find(|block| block["online"] == false).expect("a plugged block");
    assert_eq!(plugged["can-offline"], true);
    let index = plugged["phys-index"].as_u64().unwrap();
    let mut total = || -> u64 {
        let text = control.output("sed -n 's/^MemTotal: *\\([0-9]*\\).*/\\1/p' /proc/meminfo");
        text.unwrap().parse().unwrap()
    };
    let mut set = |index: u64, online: bool| -> Value {
        let block = json!({ "mem-blks": [{ "phys-index": index, "online": online }] });
        call(agent, "guest-set-memory-blocks", &block)[0].take()
    };
    let success = json!({ "phys-index": index, "response": "success" });
    let without = total();
    assert_eq!(set(index, true), success);
    assert_eq!(total(), without + (size >> 10));
    assert_eq!(set(index, true), success, "as it is already");
    // A page that is in use just then makes the kernel refuse for the moment.
    until("the block is offline", SOON, || Ok((set(index, false) == success).then_some(())))
        .unwrap();
    assert_eq!(total(), without);
    assert_eq!(
        set(9999, true),
        json!({ "phys-index": 9999, "response": "not-found", "error-code": 2 })
    );
    // The kernel itself lies in the first one.
    let first = set(0, false);
    eprintln!("memory block 0 offline: {first}");
    assert_eq!(first["response"], "operation-failed");
    assert!(first["error-code"].is_i64(), "{first}");
}

/// First as the guest is, without a hwclock, then with busybox's.
fn clocks(kind: Kind, agent: &mut RawAgent, control: &mut Control) {
    const SECOND: i64 = 1_000_000_000;
    const HWCLOCK: &str = "/sbin/hwclock";
    /// What two looks may be apart in a slow guest.
    const SLACK: i64 = 20;
    assert_ne!(control.run(&format!("test -e {HWCLOCK}")).unwrap().status, 0);
    let time = |seconds: i64| json!({ "time": seconds * SECOND });
    let stock = matches!(kind, Kind::Stock);
    for (with_hwclock, start) in [(false, 1_900_000_000), (true, 2_000_000_000)] {
        // Debian's looks for it once, and does without for ever.
        if stock && !with_hwclock {
            continue;
        }
        if with_hwclock {
            // A program that leaves a trace, so that there is no doubt who set the clock.
            let script =
                "#!/run/bin/sh\\necho \"$@\" >>/run/hwclock\\nexec /run/bin/hwclock -u \"$@\"\\n";
            control
                .output(&format!("printf '{script}' >{HWCLOCK} && chmod 755 {HWCLOCK}"))
                .unwrap();
        }
        let mut near = |command: &str, wanted: i64| {
            let found: i64 = control.output(command).unwrap().parse().unwrap();
            assert!((wanted..wanted + SLACK).contains(&found), "{command}: {found}, not {wanted}");
        };
        call(agent, "guest-set-time", &time(start));
        near("date +%s", start);
        near("cat /sys/class/rtc/rtc0/since_epoch", start);
        let told = call(agent, "guest-get-time", &json!({})).as_i64().unwrap();
        assert!((start..start + SLACK).contains(&(told / SECOND)), "{told}");

        // The system's clock goes wrong, and follows the hardware's again.
        near(&format!("date -s @{} >/dev/null; date +%s", start + 86_400), start + 86_400);
        call(agent, "guest-set-time", &json!({}));
        near("date +%s", start);
        near("cat /sys/class/rtc/rtc0/since_epoch", start);
    }
    assert_eq!(control.output("cat /run/hwclock").unwrap(), "-w\n-s");
    // The reason of a helper that fails is told, and the system's clock is set all the same.
    control
        .output(&format!("printf '#!/run/bin/sh\\necho no clock; exit 3\\n' >{HWCLOCK}"))
        .unwrap();
    let failed = agent.call("guest-set-time", &time(1_800_000_000)).unwrap_err();
    // Agents before 10.0 keep the helper's own words to themselves.
    assert_eq!(
        text(&failed),
        if stock {
            "hwclock failed to set hardware clock to system time"
        } else {
            "child process has failed to set hardware clock to system time: no clock\n"
        }
    );
    assert!(control.output("date +%s").unwrap().starts_with("18000000"));
    control.output(&format!("rm {HWCLOCK}")).unwrap();
}

fn loopback(agent: &mut RawAgent, control: &mut Control) {
    control.output("ip link set lo up").unwrap();
    let found = call(agent, "guest-network-get-interfaces", &json!({}));
    eprintln!("interfaces: {found}");
    let lo = found.as_array().unwrap().iter().find(|i| i["name"] == "lo").expect("lo");
    assert_eq!(lo["hardware-address"], "00:00:00:00:00:00");
    let addresses = lo["ip-addresses"].as_array().unwrap();
    let ours = json!({ "ip-address-type": "ipv4", "ip-address": "127.0.0.1", "prefix": 8 });
    assert!(addresses.contains(&ours), "{addresses:?}");
    assert!(lo["statistics"]["tx-packets"].is_u64());
}

/// Where the kernel says that each disk sits, the agent says too.
fn addresses(agent: &mut RawAgent, control: &mut Control) {
    // What udev would keep of the serial; without udev there is none, as with qemu-ga.
    let bare = call(agent, "guest-get-disks", &json!({}));
    assert!(bare.as_array().unwrap().iter().all(|d| d["address"]["serial"].is_null()), "{bare}");
    let entries = "for b in /sys/block/vd*; do \
                   echo E:ID_SERIAL=$(cat $b/serial) >/run/udev/data/b$(cat $b/dev); done";
    control.output(&format!("mkdir -p /run/udev/data; {entries}")).unwrap();
    let filesystems = call(agent, "guest-get-fsinfo", &json!({}));
    let disks = call(agent, "guest-get-disks", &json!({}));
    eprintln!("fsinfo: {filesystems}\ndisks: {disks}");
    for name in ["root", "ext4", "xfs", "btrfs"] {
        let device = control
            .output(&format!("grep -lx {name} /sys/block/vd*/serial | cut -d/ -f4"))
            .unwrap();
        let mount = if name == "root" { "/".to_owned() } else { format!("/data/{name}") };
        let path = control.output(&format!("readlink -f /sys/block/{device}/device")).unwrap();
        let slot = path.split('/').find(|part| part.ends_with(".0")).expect("a PCI address");
        let numbers: Vec<_> =
            slot.split([':', '.']).map(|part| i64::from_str_radix(part, 16).unwrap()).collect();
        let address = json!({
            "domain": numbers[0], "bus": numbers[1], "slot": numbers[2], "function": numbers[3],
        });
        let filesystem = filesystems.as_array().unwrap().iter().find(|f| f["mountpoint"] == mount);
        let filesystem = filesystem.unwrap_or_else(|| panic!("no {mount}"));
        assert_eq!(filesystem["disk"].as_array().unwrap().len(), 1, "{filesystem}");
        let node = format!("/dev/{device}");
        let disk = disks.as_array().unwrap().iter().find(|d| d["name"] == node).expect("a disk");
        assert_eq!(disk["partition"], false);
        for found in [&filesystem["disk"][0], &disk["address"]] {
            assert_eq!(found["bus-type"], "virtio", "{name}");
            assert_eq!(found["pci-controller"], address, "{name}");
            assert_eq!(found["dev"], node, "{name}");
            assert_eq!(found["serial"], name, "{found}");
        }
    }
}

/// Space that a deleted file has left goes back to the host.
fn trim(agent: &mut RawAgent, guest: &mut Guest) {
    const SIZE: u64 = 24 << 20;
    // The host's own blocks for the image's extents come and go with how scattered it is.
    const EXTENTS: u64 = 1 << 20;
    let image = guest.vm.image(Disk::Ext4);
    let held = || fs::metadata(&image).unwrap().blocks() * 512;
    let before = held();
    let control = guest.vm.control();
    control.output("dd if=/dev/urandom of=/data/ext4/big bs=1M count=24 2>&1 && sync").unwrap();
    let full = held();
    assert!(full + EXTENTS >= before + SIZE, "{before} {full}");
    control.output("rm /data/ext4/big && sync").unwrap();
    let answer = call(agent, "guest-fstrim", &json!({}));
    eprintln!("fstrim: {answer}");
    let paths = answer["paths"].as_array().unwrap();
    let ext4 = paths.iter().find(|p| p["path"] == "/data/ext4").expect("the disk");
    assert!(ext4["trimmed"].as_u64().unwrap() >= SIZE, "{ext4}");
    until("a sparser image", SOON, || Ok((held() + SIZE <= full + EXTENTS).then_some(()))).unwrap();
    let every: Vec<_> = paths.iter().filter(|p| p["error"].is_null()).collect();
    assert_eq!(every.len(), 4, "each disk is trimmed: {answer}");
}

/// What the agent said is wrong.
pub(crate) fn text(error: &anyhow::Error) -> &str {
    &error.downcast_ref::<AgentError>().unwrap_or_else(|| panic!("{error}")).desc
}
