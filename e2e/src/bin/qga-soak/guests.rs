//! The machines: a mixture of all agents, and a few guests that are out to do harm.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use qga_e2e::sim::{Attack, Blueprint, Clock, Fleet, Hostile, Kind, Machine, Mode, Random, name};
use qga_e2e::sim::{Commands, Latency, raise_descriptors};
use tokio::sync::{Semaphore, SemaphorePermit};

/// Sockets where now and then somebody listens who means no good.
pub(crate) const HOSTILE: usize = 3;
/// One in so many is frozen from inside now and then; the gateway is told to thaw those.
pub(crate) const OUTSIDERS: usize = 20;

/// All machines, by number.
#[derive(Debug)]
pub(crate) struct Guests {
    // Dropped before the threads that they run on.
    machines: Vec<Mutex<Arc<Machine>>>,
    /// Whoever holds one is doing something to that machine which takes time.
    hands: Vec<Semaphore>,
    blueprints: Vec<Blueprint>,
    fleet: Fleet,
    clock: Clock,
}

impl Guests {
    pub(crate) fn start(dir: &Path, count: usize, seed: u64) -> Result<Self> {
        raise_descriptors()?;
        let fleet = Fleet::new(dir)?;
        let clock = Clock::default();
        let blueprints: Vec<_> = (0..count).map(|number| blueprint(number, seed, &clock)).collect();
        let machines: Result<_> = blueprints
            .iter()
            .enumerate()
            .map(|(number, blueprint)| {
                Ok(Mutex::new(Arc::new(fleet.machine(&id(number, count), blueprint)?)))
            })
            .collect();
        let hands = (0..count).map(|_| Semaphore::new(1)).collect();
        Ok(Self { machines: machines?, hands, blueprints, fleet, clock })
    }

    pub(crate) fn count(&self) -> usize {
        self.machines.len()
    }

    /// The gateway's name for it.
    pub(crate) fn id(&self, number: usize) -> String {
        id(number, self.count())
    }

    /// Whether the gateway is told of it by name; it finds the others.
    pub(crate) fn is_named(&self, number: usize) -> bool {
        number < self.count() / 2
    }

    /// Whether that is one of them.
    pub(crate) fn has(&self, id: &str) -> bool {
        let number = id.rsplit_once('-').and_then(|(_, number)| number.parse().ok());
        number.is_some_and(|number| number < self.count() && self.id(number) == id)
    }

    pub(crate) fn machine(&self, number: usize) -> Arc<Machine> {
        self.machines[number].lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lays a hand on a machine, unless somebody else has: no machine is started by two at once, or where
    /// another has taken its place.
    pub(crate) fn hand(&self, number: usize) -> Option<SemaphorePermit<'_>> {
        self.hands[number].try_acquire().ok()
    }

    pub(crate) fn mode(&self, number: usize) -> Mode {
        self.blueprints[number].mode
    }

    /// Whether the gateway thaws this one when somebody inside has frozen it.
    pub(crate) fn is_outsider(number: usize) -> bool {
        number % OUTSIDERS == OUTSIDERS - 1
    }

    /// Time since boot, as the guests and the gateway count it.
    pub(crate) fn now(&self) -> Duration {
        self.clock.now()
    }

    /// Another VM takes the place of this one at its socket.
    pub(crate) fn replace(&self, number: usize, seed: u64) -> Result<()> {
        let old = self.machine(number);
        old.kill_qemu(true);
        let blueprint = Blueprint { seed, ..self.blueprints[number].clone() };
        let new = self.fleet.machine_at(old.socket(), &blueprint)?;
        *self.machines[number].lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
        Ok(())
    }

    /// A hostile guest at one of the sockets kept for them.
    pub(crate) fn hostile(&self, number: usize, attack: Attack) -> Result<Hostile> {
        self.fleet.hostile(&format!("hostile-{number}"), attack)
    }

    pub(crate) fn hostile_sockets(dir: &Path) -> Vec<(String, PathBuf)> {
        let named = |number| format!("hostile-{number}");
        (0..HOSTILE).map(named).map(|id| (id.clone(), dir.join(id + ".sock"))).collect()
    }

    /// Nothing is wrong with any of them any more.
    pub(crate) fn mend(&self) -> Result<()> {
        for number in 0..self.count() {
            let machine = self.machine(number);
            machine.clear_rules();
            machine.latency(Commands::Any, Latency::None);
            if !machine.truth().on {
                machine.boot()?;
            }
            machine.start_agent();
        }
        Ok(())
    }
}

fn id(number: usize, count: usize) -> String {
    if number < count / 2 { name(number) } else { format!("found-{number:05}") }
}

/// Mostly ours and stock ones, and a few of each other kind.
fn blueprint(number: usize, seed: u64, clock: &Clock) -> Blueprint {
    let mode = match number % 20 {
        0..=9 => Mode::Qga,
        10..=16 | 19 => Mode::Stock,
        17 => *Random::new(number as u64).pick(&[Mode::Bsd, Mode::Ancient]),
        _ => Mode::Windows,
    };
    let seed = seed.wrapping_add(number as u64);
    let mut blueprint = Blueprint { seed, clock: clock.clone(), ..Blueprint::new(mode) };
    if number % 50 == 7 {
        blueprint.filesystems.push(("/boot/efi".into(), Kind::Unsupported));
    }
    if number % 100 == 3 {
        blueprint.filesystems[1].1 = Kind::Fails;
    }
    blueprint
}
