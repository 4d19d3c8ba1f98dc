//! The place of a disk, as a host's tools know it: bus, unit, and the controller on the PCI bus.
//!
//! All of it is read from the path of the device below `/sys`, by qemu-ga's rules:
//!
//! ```text
//! /devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda/sda1
//!                     └ controller └ port     └ bus and target └ unit
//! ```
//!
//! The first controller counts whose driver is one of those that the rules know. What is made of
//! other devices has the places of all of them.

use qga_proto::command::{BusType, CcwAddress, DiskAddress, PciAddress};

use super::Device;

/// The deepest pile of devices on devices that is followed; the kernel itself stops earlier.
const DEPTH: usize = 16;

/// The drivers of controllers that the rules know.
const DRIVERS: [&str; 7] =
    ["ata_piix", "sym53c8xx", "virtio-pci", "ahci", "nvme", "xhci_hcd", "ehci-pci"];

/// The places of all disks that a device lies on.
pub(crate) fn places(device: &Device<'_>) -> Vec<DiskAddress> {
    let mut places = Vec::new();
    collect(device, DEPTH, &mut places);
    places
}

fn collect(device: &Device<'_>, depth: usize, places: &mut Vec<DiskAddress>) {
    if !device.is_virtual() {
        places.extend(place(device));
    } else if depth > 0 {
        for slave in device.slaves().unwrap_or_default() {
            collect(&slave, depth - 1, places);
        }
    }
}

/// The place of one disk, or of the disk of a partition; `None` if nothing at all is known.
pub(super) fn place(device: &Device<'_>) -> Option<DiskAddress> {
    let mut address = DiskAddress {
        pci_controller: PciAddress::UNKNOWN,
        bus_type: BusType::Unknown,
        bus: 0,
        target: 0,
        unit: 0,
        serial: None,
        dev: None,
        ccw_address: None,
    };
    let properties = device.properties();
    address.dev = properties.node;
    address.serial = properties.serial;
    let name = &device.name;
    let known = if name.contains("/devices/pci") {
        on_pci(device, &mut address).is_some()
    } else if name.contains("/devices/css") {
        on_ccw(name, &mut address).is_some()
    } else {
        on_virtio(name, &mut address).is_some()
    };
    (known || address.dev.is_some() || address.serial.is_some()).then_some(address)
}

/// `None`: the rules do not know it; what they do know is in `address`.
fn on_pci(device: &Device<'_>, address: &mut DiskAddress) -> Option<()> {
    let name = &device.name;
    let start = name.find("/devices/pci")? + "/devices/".len();
    let mut end = start + name[start..].find('/')?;
    let (controller, driver) = loop {
        let part = name[end + 1..].split('/').next()?;
        let controller = pci_address(part)?;
        end += 1 + part.len();
        let driver = std::fs::read_link(device.roots.sys.join(&name[1..end]).join("driver"));
        let driver = driver.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        if let Some(driver) = driver.filter(|driver| DRIVERS.contains(&driver.as_str())) {
            break (controller, driver);
        }
    };
    let target = scsi_numbers(name);
    address.pci_controller = controller;
    match driver.as_str() {
        "ata_piix" => {
            let [_, target, _] = target?;
            address.bus = port(device)?;
            address.unit = target;
            address.bus_type = BusType::Ide;
        }
        "sym53c8xx" => {
            let [_, target, _] = target?;
            address.unit = target;
            address.bus_type = BusType::Scsi;
        }
        "virtio-pci" => match target {
            Some([_, _, unit]) => {
                address.unit = unit;
                address.bus_type = BusType::Scsi;
            }
            None => address.bus_type = BusType::Virtio,
        },
        "ahci" => {
            target?;
            address.unit = port(device)?;
            address.bus_type = BusType::Sata;
        }
        "nvme" => address.bus_type = BusType::Nvme,
        _ => address.bus_type = BusType::Usb,
    }
    Some(())
}

/// A virtio disk whose transport is not PCI: the bus is all that is known of its place.
fn on_virtio(name: &str, address: &mut DiskAddress) -> Option<()> {
    if !name.contains("/virtio") || !name.contains("/block") {
        return None;
    }
    match scsi_numbers(name) {
        Some([bus, target, unit]) => {
            (address.bus, address.target, address.unit) = (bus, target, unit);
            address.bus_type = BusType::Scsi;
        }
        None => address.bus_type = BusType::Virtio,
    }
    Some(())
}

/// `/devices/css0/0.0.0001/0.0.1234/…`: channel subsystem, subchannel set and subchannel, then
/// the device's number.
fn on_ccw(name: &str, address: &mut DiskAddress) -> Option<()> {
    let mut parts = name[name.find("/devices/css")? + "/devices/css".len()..].split('/');
    hexadecimal(parts.next()?)?;
    let [cssid, ssid, subchno] = bus_id(parts.next()?)?;
    let [_, _, devno] = bus_id(parts.next()?)?;
    address.ccw_address = Some(CcwAddress { cssid, ssid, subchno, devno });
    if name.contains("/virtio") {
        let _ = on_virtio(name, address);
    }
    Some(())
}

/// Which of its controller's ports, in the order of their numbers, a disk is at. ATA ports count
/// where there are any, SCSI hosts otherwise.
fn port(device: &Device<'_>) -> Option<i64> {
    let name = &device.name;
    let kind = ["ata", "host"].into_iter().find(|kind| name.contains(&format!("/{kind}")))?;
    let at = name.find(&format!("/{kind}"))?;
    let number = leading_number(&name[at + 1 + kind.len()..])?;
    let siblings = std::fs::read_dir(device.roots.sys.join(&name[1..at])).ok()?;
    let numbers = siblings
        .filter_map(|entry| leading_number(entry.ok()?.file_name().to_str()?.strip_prefix(kind)?));
    // Its place among them is the number of lower ones.
    i64::try_from(numbers.filter(|&other| other < number).count()).ok()
}

/// Bus, target and unit: `/target0:0:1/0:0:1:2` has 0, 1 and 2.
fn scsi_numbers(name: &str) -> Option<[i64; 3]> {
    let mut parts = name[name.find("/target")? + "/target".len()..].split('/');
    let _: [i64; 3] = numbers(parts.next()?)?.try_into().ok()?;
    let [_, bus, target, unit] = numbers(parts.next()?)?.try_into().ok()?;
    Some([bus, target, unit])
}

fn numbers(text: &str) -> Option<Vec<i64>> {
    text.split(':').map(|part| Some(part.parse::<u32>().ok()?.into())).collect()
}

fn leading_number(text: &str) -> Option<u32> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..digits].parse().ok()
}

/// `0000:00:1f.2`
fn pci_address(part: &str) -> Option<PciAddress> {
    let (domain, rest) = part.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    Some(PciAddress {
        domain: hexadecimal(domain)?,
        bus: hexadecimal(bus)?,
        slot: hexadecimal(slot)?,
        function: hexadecimal(function)?,
    })
}

/// `0.0.1234`
fn bus_id(part: &str) -> Option<[i64; 3]> {
    let numbers: Option<Vec<_>> = part.split('.').map(hexadecimal).collect();
    numbers?.try_into().ok()
}

fn hexadecimal(text: &str) -> Option<i64> {
    u32::from_str_radix(text, 16).ok().map(i64::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::Tree;
    use proptest::prelude::*;

    const HOST: &str = "/devices/pci0000:00";

    /// Bus type, PCI slot, bus, target and unit of a device.
    fn found(tree: &Tree, number: &str) -> (BusType, i64, i64, i64, i64) {
        let device = tree.roots.block_device(number).unwrap();
        let [address] = places(&device).try_into().unwrap();
        let slot = address.pci_controller.slot;
        (address.bus_type, slot, address.bus, address.target, address.unit)
    }

    #[test]
    fn each_controller_has_its_rule() {
        let tree = Tree::new();
        let scsi = "target0:1:2/0:1:2:3/block";
        tree.driver(&format!("{HOST}/0000:00:01.1"), "ata_piix")
            .directory(&format!("{HOST}/0000:00:01.1/ata2"))
            .directory(&format!("{HOST}/0000:00:01.1/ata10"))
            .block(&format!("{HOST}/0000:00:01.1/ata10/host9/{scsi}/sda"), "8:0", "")
            .driver(&format!("{HOST}/0000:00:02.0"), "sym53c8xx")
            .block(&format!("{HOST}/0000:00:02.0/host3/{scsi}/sdb"), "8:16", "")
            .driver(&format!("{HOST}/0000:00:03.0"), "virtio-pci")
            .block(&format!("{HOST}/0000:00:03.0/virtio0/host4/{scsi}/sdc"), "8:32", "")
            .driver(&format!("{HOST}/0000:00:04.0"), "virtio-pci")
            .block(&format!("{HOST}/0000:00:04.0/virtio1/block/vda"), "254:0", "")
            .driver(&format!("{HOST}/0000:00:05.0"), "pcieport")
            .driver(&format!("{HOST}/0000:00:05.0/0000:01:06.0"), "ahci")
            .directory(&format!("{HOST}/0000:00:05.0/0000:01:06.0/ata3"))
            .directory(&format!("{HOST}/0000:00:05.0/0000:01:06.0/ata4"))
            .block(&format!("{HOST}/0000:00:05.0/0000:01:06.0/ata5/host1/{scsi}/sdd"), "8:48", "")
            .driver(&format!("{HOST}/0000:00:07.0"), "nvme")
            .block(&format!("{HOST}/0000:00:07.0/nvme/nvme0/nvme0n1"), "259:0", "")
            .driver(&format!("{HOST}/0000:00:08.0"), "xhci_hcd")
            .block(&format!("{HOST}/0000:00:08.0/usb1/1-1/host5/{scsi}/sde"), "8:64", "");
        assert_eq!(found(&tree, "8:0"), (BusType::Ide, 1, 1, 0, 2));
        assert_eq!(found(&tree, "8:16"), (BusType::Scsi, 2, 0, 0, 2));
        assert_eq!(found(&tree, "8:32"), (BusType::Scsi, 3, 0, 0, 3));
        assert_eq!(found(&tree, "254:0"), (BusType::Virtio, 4, 0, 0, 0));
        assert_eq!(found(&tree, "8:48"), (BusType::Sata, 6, 0, 0, 2));
        assert_eq!(found(&tree, "259:0"), (BusType::Nvme, 7, 0, 0, 0));
        assert_eq!(found(&tree, "8:64"), (BusType::Usb, 8, 0, 0, 0));
    }

    #[test]
    fn what_the_rules_do_not_know_still_has_its_node_and_serial() {
        let tree = Tree::new();
        tree.driver(&format!("{HOST}/0000:00:01.0"), "megaraid_sas")
            .block(&format!("{HOST}/0000:00:01.0/host0/block/sda"), "8:0", "E:ID_SERIAL=S1\n")
            .block("/devices/platform/x/mmc0/block/mmcblk0", "179:0", "");
        let device = tree.roots.block_device("8:0").unwrap();
        let address = &places(&device)[0];
        assert_eq!(address.pci_controller, PciAddress::UNKNOWN);
        assert_eq!(address.dev.as_deref(), Some("/dev/sda"));
        assert_eq!(address.serial.as_deref(), Some("S1"));
        assert_eq!(found(&tree, "179:0"), (BusType::Unknown, -1, 0, 0, 0));
    }

    #[test]
    fn virtio_without_pci_and_channels() {
        let tree = Tree::new();
        tree.block("/devices/platform/a003e00.virtio_mmio/virtio0/block/vda", "254:0", "").block(
            "/devices/css0/0.1.00fe/0.0.1234/virtio1/host0/target0:1:2/0:1:2:3/block/sda",
            "8:0",
            "",
        );
        assert_eq!(found(&tree, "254:0"), (BusType::Virtio, -1, 0, 0, 0));
        assert_eq!(found(&tree, "8:0"), (BusType::Scsi, -1, 1, 2, 3));
        let device = tree.roots.block_device("8:0").unwrap();
        let ccw = places(&device)[0].ccw_address.unwrap();
        assert_eq!((ccw.cssid, ccw.ssid, ccw.subchno, ccw.devno), (0, 1, 0xfe, 0x1234));
    }

    #[test]
    fn virtual_devices_have_the_places_of_what_they_lie_on() {
        let tree = Tree::new();
        let disk = |slot: u32| format!("{HOST}/0000:00:0{slot}.0/virtio{slot}/block/vd{slot}");
        for slot in 1..=2 {
            tree.driver(&format!("{HOST}/0000:00:0{slot}.0"), "virtio-pci").block(
                &disk(slot),
                &format!("254:{slot}"),
                "",
            );
        }
        tree.block("/devices/virtual/block/md0", "9:0", "")
            .block("/devices/virtual/block/dm-0", "253:0", "")
            .block("/devices/virtual/block/loop0", "7:0", "")
            .slave("/devices/virtual/block/md0", &disk(1))
            .slave("/devices/virtual/block/md0", &disk(2))
            .slave("/devices/virtual/block/dm-0", "/devices/virtual/block/md0");
        let device = tree.roots.block_device("253:0").unwrap();
        let slots: Vec<_> = places(&device).iter().map(|place| place.pci_controller.slot).collect();
        assert_eq!(slots, [1, 2]);
        assert!(places(&tree.roots.block_device("7:0").unwrap()).is_empty());
    }

    proptest! {
        #[test]
        fn no_name_panics(name in "(/devices/(pci|css)?[0-9a-f:./]{0,9})?(/[a-z0-9:.\u{e9}]{0,9}){0,6}") {
            let tree = Tree::new();
            let device =
                Device { roots: &tree.roots, directory: tree.roots.sys.clone(), name };
            place(&device);
        }
    }
}
