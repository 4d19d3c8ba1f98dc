//! Pings: the cost of a command that does nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::contestant::{Running, STOCK, first_answer};
use crate::core::OneCore;
use crate::link::{Link, PING};
use crate::round::{Effort, Entry, interleave};
use crate::samples::quantile;
use crate::table::Row;
use crate::target::{Bound, Target};

/// Length of `{"return": {}}` and its newline.
pub(crate) const REPLY: usize = 15;

const IN_FLIGHT: usize = 32;

/// Round trip and rate of pings.
pub(crate) fn rows(agents: &[Entry<Running>], effort: Effort) -> Vec<Row> {
    let links = || -> Vec<Entry<Link>> {
        agents.iter().map(|agent| agent.prepare(|agent| warm(&agent.socket))).collect()
    };
    let [half, most] = interleave(effort.rounds, links(), |link| {
        let mut micros = round_trips(effort.turn, || link.exchange(PING, REPLY))?;
        micros.sort_by(f64::total_cmp);
        Ok([quantile(&micros, 0.5), quantile(&micros, 0.99)])
    });
    let pinned = agents.iter().map(|agent| {
        agent.prepare(|agent| {
            let link = warm(&agent.socket)?;
            Ok((link, OneCore::with(agent)?))
        })
    });
    let [one_core] = interleave(effort.rounds, pinned.collect(), |(link, core)| {
        let mut micros = core.during(|| round_trips(effort.turn, || link.exchange(PING, REPLY)))?;
        micros.sort_by(f64::total_cmp);
        Ok([quantile(&micros, 0.5)])
    });
    let [rate] = interleave(effort.rounds, links(), |link| {
        Ok([thousands_per_second(link, IN_FLIGHT, effort.turn)?])
    });
    let row = |name: &str, unit, cells, target| Row { name: name.into(), unit, cells, target };
    vec![
        row("ping round trip, p50", "µs", half, Target::Ratio(&[(STOCK, Bound::AtMost(0.4))])),
        row("ping round trip, p99", "µs", most, Target::Open),
        // Without the kernel's choice of cores, which differs from run to run.
        row(
            "ping round trip, p50, both on one core",
            "µs",
            one_core,
            Target::Ratio(&[(STOCK, Bound::AtMost(0.4))]),
        ),
        row("pings/s, 32 in flight", "k/s", rate, Target::Ratio(&[(STOCK, Bound::AtLeast(5.0))])),
    ]
}

/// A connection on which some pings were answered already.
pub(crate) fn warm(socket: &Path) -> Result<Link> {
    let mut link = first_answer(socket)?;
    for _ in 0..20 {
        link.exchange(PING, REPLY)?;
    }
    Ok(link)
}

/// The times of pings, one after the other for a turn, in µs.
pub(crate) fn round_trips(
    turn: Duration,
    mut ping: impl FnMut() -> Result<()>,
) -> Result<Vec<f64>> {
    let mut micros = Vec::new();
    let start = Instant::now();
    while start.elapsed() < turn {
        let sent = Instant::now();
        ping()?;
        micros.push(sent.elapsed().as_secs_f64() * 1e6);
    }
    Ok(micros)
}

/// The rate of pings with `in_flight` on the way at any time, in thousands.
pub(crate) fn thousands_per_second(
    link: &mut Link,
    in_flight: usize,
    turn: Duration,
) -> Result<f64> {
    const AT_ONCE: u32 = 2000;
    let mut pings = 0.0;
    let start = Instant::now();
    while start.elapsed() < turn {
        link.pipeline(PING, REPLY, in_flight, AT_ONCE as usize)?;
        pings += f64::from(AT_ONCE);
    }
    Ok(pings / start.elapsed().as_secs_f64() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replys_length_is_that_of_qemu_gas_text() {
        assert_eq!(REPLY, b"{\"return\": {}}\n".len());
    }
}
