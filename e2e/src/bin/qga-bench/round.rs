//! Rounds: each contestant in turn, again and again.

use std::time::Duration;

use anyhow::Result;

use crate::samples::Samples;
use crate::table::Cell;

/// How long and how often to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    pub(crate) rounds: usize,
    /// Rounds of what starts programs, and of what then lets them rest.
    pub(crate) starts: usize,
    pub(crate) rests: usize,
    /// The least time that a contestant's turn takes.
    pub(crate) turn: Duration,
    /// Size of the file that is read and written.
    pub(crate) file: usize,
    /// How long idle agents are watched.
    pub(crate) idle: Duration,
    /// How many VMs the gateway has while all idle.
    pub(crate) idle_vms: usize,
    /// How many commands must leave nothing behind.
    pub(crate) commands: usize,
    /// Rounds in a VM, which is slow, and the size of the file there.
    pub(crate) vm_rounds: usize,
    pub(crate) vm_file: usize,
    /// Whether qemu-ga gets a VM too.
    pub(crate) vm_stock: bool,
    /// Size of a file that goes over HTTP, and of the one that memory is watched over, in chunks.
    pub(crate) stream: usize,
    pub(crate) stream_vm: usize,
    pub(crate) stream_long: u64,
    /// How long transfers at once are watched.
    pub(crate) stream_watch: Duration,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        rounds: 15,
        starts: 15,
        rests: 3,
        turn: Duration::from_millis(100),
        file: 8 << 20,
        idle: Duration::from_secs(10),
        idle_vms: 10_000,
        commands: 100_000,
        vm_rounds: 7,
        vm_file: 4 << 20,
        vm_stock: true,
        stream: 256,
        stream_vm: 64,
        stream_long: 10 << 30,
        stream_watch: Duration::from_secs(4),
    };
    /// Enough to see that everything works, and no more.
    pub(crate) const QUICK: Self = Self {
        rounds: 2,
        starts: 2,
        rests: 1,
        turn: Duration::from_millis(5),
        file: 1 << 20,
        idle: Duration::from_secs(1),
        idle_vms: 100,
        commands: 1_000,
        vm_rounds: 1,
        vm_file: 1 << 20,
        vm_stock: false,
        stream: 8,
        stream_vm: 4,
        stream_long: 32 << 20,
        stream_watch: Duration::from_millis(500),
    };
}

/// Lets every contestant measure its `N` figures once per round, all contestants in each round.
/// One that fails is left out of the rounds that follow.
pub(crate) fn interleave<C, const N: usize>(
    rounds: usize,
    contestants: Vec<Entry<C>>,
    mut measure: impl FnMut(&mut C) -> Result<[f64; N]>,
) -> [Vec<Cell>; N] {
    let mut entries = contestants;
    let mut figures: Vec<[Samples; N]> =
        entries.iter().map(|_| std::array::from_fn(|_| Samples::default())).collect();
    for round in 0..rounds {
        for place in 0..entries.len() {
            // Another one begins each time: no place in the order is better than the others.
            let turn = (round + place) % entries.len();
            let (entry, samples) = (&mut entries[turn], &mut figures[turn]);
            let Entry::Ready(contestant) = entry else { continue };
            match measure(contestant) {
                Ok(values) => samples.iter_mut().zip(values).for_each(|(s, v)| s.push(v)),
                Err(error) => *entry = Entry::Failed(format!("{error:#}")),
            }
        }
    }
    std::array::from_fn(|figure| {
        entries
            .iter()
            .zip(&figures)
            .map(|(entry, samples)| match entry {
                Entry::Ready(_) => Cell::Measured(samples[figure].clone()),
                Entry::Blank => Cell::Blank,
                Entry::Skipped => Cell::Skipped,
                Entry::Failed(cause) => Cell::Failed(cause.clone()),
            })
            .collect()
    })
}

/// A contestant's place in a row.
#[derive(Debug)]
pub(crate) enum Entry<C> {
    Ready(C),
    /// The figure has no meaning for it.
    Blank,
    /// It is not there.
    Skipped,
    Failed(String),
}

impl<C> Entry<C> {
    /// Prepares it for a figure.
    pub(crate) fn prepare<'a, D>(&'a self, prepare: impl FnOnce(&'a C) -> Result<D>) -> Entry<D> {
        match self {
            Self::Ready(contestant) => Entry::from(prepare(contestant)),
            Self::Blank => Entry::Blank,
            Self::Skipped => Entry::Skipped,
            Self::Failed(cause) => Entry::Failed(cause.clone()),
        }
    }
}

impl<C> From<Result<C>> for Entry<C> {
    fn from(result: Result<C>) -> Self {
        result.map_or_else(|error| Self::Failed(format!("{error:#}")), Self::Ready)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn contestants_take_turns_and_a_failure_stays_with_its_own() {
        let mut order = String::new();
        let entries = vec![Entry::Ready('a'), Entry::Skipped, Entry::Ready('b'), Entry::Blank];
        let [cells] = interleave(3, entries, |name| {
            order.push(*name);
            if order.len() > 4 && *name == 'b' {
                bail!("tired");
            }
            Ok([1.0])
        });
        assert_eq!(order, "abbaba");
        assert!(matches!(cells[0], Cell::Measured(_)));
        assert_eq!(cells[1..], [Cell::Skipped, Cell::Failed("tired".into()), Cell::Blank]);
    }
}
