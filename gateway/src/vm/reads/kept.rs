//! Answers, bounded per VM and in all; those that nobody has asked for longest go first.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::{Key, Snapshot};
use crate::config::Limits;
use crate::vm::VmId;

/// What an answer costs besides its body, roughly.
const OVERHEAD: usize = 512;

#[derive(Debug, Default)]
pub(super) struct Kept {
    vms: HashMap<VmId, HashMap<&'static str, Entry>>,
    /// By when they were last asked for.
    order: BTreeMap<u64, Key>,
    turn: u64,
    bytes: usize,
}

#[derive(Debug)]
struct Entry {
    snapshot: Arc<Snapshot>,
    turn: u64,
}

impl Kept {
    pub(super) fn get(&mut self, vm: &VmId, name: &'static str) -> Option<Arc<Snapshot>> {
        let entry = self.vms.get_mut(vm)?.get_mut(name)?;
        self.turn += 1;
        if let Some(key) = self.order.remove(&std::mem::replace(&mut entry.turn, self.turn)) {
            self.order.insert(self.turn, key);
        }
        Some(entry.snapshot.clone())
    }

    /// As [`get`](Self::get), and it does not count as asked for.
    pub(super) fn peek(&self, vm: &VmId, name: &str) -> Option<Arc<Snapshot>> {
        Some(self.vms.get(vm)?.get(name)?.snapshot.clone())
    }

    /// Keeps an answer in place of the one before. One that is too large for its VM is not kept.
    pub(super) fn insert(
        &mut self,
        vm: &VmId,
        name: &'static str,
        snapshot: Arc<Snapshot>,
        limits: &Limits,
    ) {
        self.remove(&(vm.clone(), name));
        let cost = cost(&snapshot);
        if cost > limits.answers_vm_bytes.min(limits.answers_bytes) {
            return;
        }
        while self.bytes_of(vm) + cost > limits.answers_vm_bytes {
            let oldest = self.vms.get(vm).and_then(|entries| {
                entries.iter().min_by_key(|(_, entry)| entry.turn).map(|(name, _)| *name)
            });
            let Some(oldest) = oldest else { break };
            self.remove(&(vm.clone(), oldest));
        }
        while self.bytes + cost > limits.answers_bytes {
            let Some(oldest) = self.order.values().next().cloned() else { break };
            self.remove(&oldest);
        }
        self.turn += 1;
        self.bytes += cost;
        self.order.insert(self.turn, (vm.clone(), name));
        let entry = Entry { snapshot, turn: self.turn };
        self.vms.entry(vm.clone()).or_default().insert(name, entry);
    }

    fn remove(&mut self, (vm, name): &Key) {
        let Some(entries) = self.vms.get_mut(vm) else { return };
        if let Some(entry) = entries.remove(name) {
            self.bytes -= cost(&entry.snapshot);
            self.order.remove(&entry.turn);
        }
        if entries.is_empty() {
            self.vms.remove(vm);
        }
    }

    fn bytes_of(&self, vm: &VmId) -> usize {
        self.vms.get(vm).map_or(0, |e| e.values().map(|entry| cost(&entry.snapshot)).sum())
    }
}

fn cost(snapshot: &Snapshot) -> usize {
    OVERHEAD + snapshot.body.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::super::Stamp;
    use super::*;

    fn snapshot(size: usize) -> Arc<Snapshot> {
        let stamp = Stamp { vm: Weak::new(), changes: 0, disruptions: 0 };
        Arc::new(Snapshot::new(vec![b'x'; size].into(), stamp))
    }

    fn limits(all: usize, vm: usize) -> Limits {
        let (all, vm) = (all * (OVERHEAD + 100), vm * (OVERHEAD + 100));
        Limits { answers_bytes: all, answers_vm_bytes: vm, ..Limits::default() }
    }

    fn has(kept: &Kept, vm: &VmId, name: &str) -> bool {
        kept.vms.get(vm).is_some_and(|entries| entries.contains_key(name))
    }

    #[test]
    fn what_nobody_asks_for_goes_first_and_no_vm_takes_the_place_of_all() {
        let (mut kept, limits) = (Kept::default(), limits(4, 2));
        let [a, b, c] = ["a", "b", "c"].map(|id| id.parse::<VmId>().expect("an id"));
        for (vm, name) in [(&a, "1"), (&a, "2"), (&b, "1"), (&b, "2")] {
            kept.insert(vm, name, snapshot(100), &limits);
        }
        assert_eq!(kept.bytes, limits.answers_bytes);
        // A VM's third answer costs it its oldest, and nobody else anything.
        kept.insert(&b, "3", snapshot(100), &limits);
        assert!(!has(&kept, &b, "1") && has(&kept, &b, "2") && has(&kept, &a, "1"));
        // Asked for, so not the oldest any more.
        assert!(kept.get(&a, "1").is_some());
        kept.insert(&c, "1", snapshot(100), &limits);
        assert!(has(&kept, &a, "1") && !has(&kept, &a, "2"));
        // Too large to be kept, and what it replaces is old.
        kept.insert(&a, "1", snapshot(10_000), &limits);
        assert!(!has(&kept, &a, "1"));
        assert!(kept.get(&a, "1").is_none() && kept.get(&a, "none").is_none());
        // To look at one is not to ask for it.
        assert!(
            kept.peek(&b, "2").is_some() && kept.order.values().next() == Some(&(b.clone(), "2"))
        );
        for (vm, name) in [(&b, "2"), (&b, "3"), (&c, "1")] {
            kept.remove(&(vm.clone(), name));
        }
        assert!(kept.bytes == 0 && kept.vms.is_empty() && kept.order.is_empty());
    }
}
