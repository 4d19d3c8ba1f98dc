//! All disks and partitions.

use std::path::Path;

use qga_proto::command::{BusType, Disk, DiskSmart};
use rustix::fs::{Mode, OFlags, open};

use super::{Device, Roots, address, smart};
use crate::sys;

/// Every disk that has a size, each followed by its partitions.
pub(crate) fn disks(roots: &Roots) -> std::io::Result<Vec<Disk>> {
    let mut links: Vec<_> = std::fs::read_dir(roots.sys.join("block"))?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()))
        .map(|entry| entry.path())
        .collect();
    links.sort_by(|a, b| in_order(a, b));
    let mut disks = Vec::new();
    for link in links {
        // It may be gone again.
        let Ok(device) = roots.device(&link) else { continue };
        if has_size(&device)
            && let Some(disk) = disk(&device)
        {
            let partitions = partitions(&device, &disk.name);
            disks.push(disk);
            disks.extend(partitions);
        }
    }
    Ok(disks)
}

/// Empty drives and loop devices without a file have none.
fn has_size(device: &Device<'_>) -> bool {
    std::fs::read_to_string(device.directory.join("size")).is_ok_and(|size| size.trim() != "0")
}

fn disk(device: &Device<'_>) -> Option<Disk> {
    let properties = device.properties();
    let name = properties.node?;
    let address = if device.is_virtual() { None } else { address::place(device) };
    let is_nvme = address.as_ref().is_some_and(|address| address.bus_type == BusType::Nvme);
    let dependencies = device
        .slaves()
        .map(|slaves| slaves.iter().filter_map(|slave| slave.properties().node).collect());
    Some(Disk {
        smart: if is_nvme { health(&name) } else { None },
        name,
        partition: false,
        dependencies,
        address,
        alias: properties.mapper_name.or_else(|| mapper_name(device)),
    })
}

/// The same name that udev would give, where udev does not run.
fn mapper_name(device: &Device<'_>) -> Option<String> {
    let name = std::fs::read_to_string(device.directory.join("dm/name")).ok()?;
    Some(name.trim_end_matches('\n').to_owned())
}

/// Subdirectories whose name is the disk's with a number, or with `p` and a number.
fn partitions(device: &Device<'_>, disk: &str) -> Vec<Disk> {
    let kernel_name = device.kernel_name();
    let Ok(entries) = std::fs::read_dir(&device.directory) else { return Vec::new() };
    let mut paths: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter(|entry| is_partition(&entry.file_name().to_string_lossy(), &kernel_name))
        .map(|entry| entry.path())
        .collect();
    paths.sort_by(|a, b| in_order(a, b));
    let nodes = paths.iter().filter_map(|path| device.roots.device(path).ok()?.properties().node);
    let partition = |name| Disk {
        name,
        partition: true,
        dependencies: Some(vec![disk.to_owned()]),
        address: None,
        alias: None,
        smart: None,
    };
    nodes.map(partition).collect()
}

fn is_partition(name: &str, disk: &str) -> bool {
    let Some(rest) = name.strip_prefix(disk) else { return false };
    let number = rest.strip_prefix('p').unwrap_or(rest);
    number.starts_with(|c: char| c.is_ascii_digit())
}

/// `sda2` comes before `sda10`.
fn in_order(a: &Path, b: &Path) -> std::cmp::Ordering {
    let key = |path: &Path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let digits = name.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        let number = name[digits..].parse::<u64>().unwrap_or(0);
        (name[..digits].to_owned(), number)
    };
    key(a).cmp(&key(b))
}

/// What an NVMe disk reports of itself, if it can be asked.
fn health(node: &str) -> Option<DiskSmart> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let disk = open(node, flags, Mode::empty()).ok()?;
    let log = sys::nvme::smart_log(&disk).ok()?;
    Some(DiskSmart::Nvme(smart::parse(&log)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::tests::Tree;

    #[test]
    fn disks_come_with_what_they_lie_on_and_partitions_with_their_disk() {
        let tree = Tree::new();
        let disk = "/devices/pci0000:00/0000:00:04.0/virtio1/block/vda";
        tree.driver("/devices/pci0000:00/0000:00:04.0", "virtio-pci")
            .block(disk, "254:0", "E:ID_SERIAL=abc\n")
            .block(&format!("{disk}/vda2"), "254:2", "")
            .block(&format!("{disk}/vda10"), "254:10", "")
            .directory(&format!("{disk}/queue"))
            .block("/devices/virtual/block/dm-0", "253:0", "E:DM_NAME=vg-root\n")
            .slave("/devices/virtual/block/dm-0", &format!("{disk}/vda2"))
            .block("/devices/virtual/block/loop0", "7:0", "")
            .size("/devices/virtual/block/loop0", "0\n");
        let disks = disks(&tree.roots).unwrap();
        let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["/dev/dm-0", "/dev/vda", "/dev/vda2", "/dev/vda10"]);
        let [mapper, whole, part, _] = &disks[..] else { panic!() };
        assert_eq!(mapper.alias.as_deref(), Some("vg-root"));
        assert_eq!(mapper.dependencies.as_deref(), Some(&["/dev/vda2".to_owned()][..]));
        assert_eq!(mapper.address, None);
        assert_eq!(whole.dependencies.as_deref(), Some(&[][..]));
        let address = whole.address.as_ref().unwrap();
        assert_eq!((address.bus_type, address.pci_controller.slot), (BusType::Virtio, 4));
        assert_eq!(address.serial.as_deref(), Some("abc"));
        assert!(part.partition && part.address.is_none());
        assert_eq!(part.dependencies.as_deref(), Some(&["/dev/vda".to_owned()][..]));
    }

    #[test]
    fn partitions_are_told_by_their_names() {
        for (name, disk, is) in [
            ("sda1", "sda", true),
            ("nvme0n1p2", "nvme0n1", true),
            ("mmcblk0boot0", "mmcblk0", false),
            ("queue", "sda", false),
            ("sda", "sda", false),
        ] {
            assert_eq!(is_partition(name, disk), is, "{name}");
        }
    }
}
