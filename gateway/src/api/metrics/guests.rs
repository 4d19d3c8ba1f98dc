//! What guests last said of themselves, where an answer is kept. Their words are bounded in number
//! and length, and two that have come to look alike are one: Prometheus refuses a whole scrape for a
//! sample that is there twice.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use qga_proto::command::{Command as _, GuestGetFsinfo, GuestGetLoad, LoadAverage};
use serde::Deserialize;

use crate::metrics::family;
use crate::metrics::page::Page;
use crate::printable::label;
use crate::vm::{Snapshot, VmHandle};

/// Filesystems of a VM that are shown one by one.
const FILESYSTEMS: usize = 64;

/// Of a `guest-get-fsinfo` what is shown.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Filesystem {
    name: String,
    mountpoint: String,
    #[serde(rename = "type")]
    fs_type: String,
    used_bytes: Option<u64>,
    total_bytes: Option<u64>,
}

/// One that is shown: `mountpoint`, `device`, `fstype`.
struct Shown {
    labels: [String; 3],
    used: Option<u64>,
    total: Option<u64>,
}

struct Said<'a> {
    vm: &'a str,
    filesystems: Option<(usize, Vec<Shown>, Duration)>,
    load: Option<(LoadAverage, Duration)>,
}

pub(super) fn write(page: &mut Page, vms: &[VmHandle]) {
    let said: Vec<Said<'_>> = vms.iter().filter_map(said).collect();
    let lists = || said.iter().filter_map(|said| Some((said.vm, said.filesystems.as_ref()?)));
    let mut samples = page.family(&family::GUEST_FILESYSTEMS);
    for (vm, (count, ..)) in lists() {
        samples.add(&[vm], count);
    }
    let each =
        || lists().flat_map(|(vm, (_, shown, _))| shown.iter().map(move |shown| (vm, shown)));
    type Gauge = (&'static family::Family, fn(&Shown) -> Option<u64>);
    let gauges: [Gauge; 2] =
        [(&family::GUEST_SIZE, |shown| shown.total), (&family::GUEST_USED, |shown| shown.used)];
    for (family, read) in gauges {
        let mut samples = page.family(family);
        for (vm, shown) in each() {
            if let Some(bytes) = read(shown) {
                let [mountpoint, device, fs_type] = &shown.labels;
                samples.add(&[vm, mountpoint, device, fs_type], bytes);
            }
        }
    }
    let mut samples = page.family(&family::GUEST_LOAD);
    for (vm, load) in said.iter().filter_map(|said| Some((said.vm, &said.load.as_ref()?.0))) {
        for (window, value) in [("1m", load.load1m), ("5m", load.load5m), ("15m", load.load15m)] {
            samples.add(&[vm, window], value);
        }
    }
    let mut samples = page.family(&family::GUEST_AGE);
    for Said { vm, filesystems, load } in &said {
        if let Some((.., age)) = filesystems {
            samples.add(&[vm, GuestGetFsinfo::INFO.name], age.as_secs_f64());
        }
        if let Some((_, age)) = load {
            samples.add(&[vm, GuestGetLoad::INFO.name], age.as_secs_f64());
        }
    }
}

fn said(vm: &VmHandle) -> Option<Said<'_>> {
    let filesystems = vm.peek(&GuestGetFsinfo::INFO).and_then(|kept| {
        let all: Vec<Filesystem> = serde_json::from_slice(&kept.body).ok()?;
        Some((all.len(), shown(all), kept.age()))
    });
    let load = |kept: Arc<Snapshot>| Some((serde_json::from_slice(&kept.body).ok()?, kept.age()));
    let load = vm.peek(&GuestGetLoad::INFO).and_then(load);
    let any = filesystems.is_some() || load.is_some();
    any.then(|| Said { vm: vm.id().as_str(), filesystems, load })
}

fn shown(all: Vec<Filesystem>) -> Vec<Shown> {
    let mut seen = HashSet::new();
    let mut shown = Vec::new();
    for filesystem in all {
        if shown.len() == FILESYSTEMS {
            break;
        }
        let Filesystem { name, mountpoint, fs_type, used_bytes: used, total_bytes: total } =
            filesystem;
        let labels = [mountpoint, name, fs_type].map(|text| label(&text));
        if seen.insert(labels.clone()) {
            shown.push(Shown { labels, used, total });
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filesystem(mountpoint: &str) -> Filesystem {
        let (name, fs_type) = ("vda1".to_owned(), "ext4".to_owned());
        let (used_bytes, total_bytes) = (Some(1), None);
        Filesystem { name, mountpoint: mountpoint.to_owned(), fs_type, used_bytes, total_bytes }
    }

    #[test]
    fn a_hundred_thousand_filesystems_are_64_and_none_is_there_twice() {
        let all = (0..100_000).map(|n| filesystem(&format!("/{n}"))).collect();
        assert_eq!(shown(all).len(), FILESYSTEMS);
        // Alike at first, and alike once they are cut.
        let long = "x".repeat(5000);
        let names = ["/", "/", &format!("/{long}a"), &format!("/{long}b"), "/\n"];
        let shown = shown(names.map(filesystem).into_iter().collect());
        let names: Vec<_> = shown.iter().map(|shown| &*shown.labels[0]).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert!(names.iter().all(|name| name.chars().count() <= 129));
        assert_eq!(names[2], "/\\n");
    }
}
