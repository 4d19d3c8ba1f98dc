//! Pings: the cost of a command that does nothing.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::contestant::{Running, STOCK, first_answer};
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
        let mut micros = round_trips(link, effort.pings)?;
        micros.sort_by(f64::total_cmp);
        Ok([quantile(&micros, 0.5), quantile(&micros, 0.99)])
    });
    let [rate] = interleave(effort.rounds, links(), |link| {
        Ok([thousands_per_second(link, PING, IN_FLIGHT, effort.pipelined_pings)?])
    });
    let row = |name: &str, unit, cells, target| Row { name: name.into(), unit, cells, target };
    vec![
        row("ping round trip, p50", "µs", half, Target::Ratio(&[(STOCK, Bound::AtMost(0.4))])),
        row("ping round trip, p99", "µs", most, Target::Open),
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

/// The times of `count` pings one after the other, in µs.
pub(crate) fn round_trips(link: &mut Link, count: usize) -> Result<Vec<f64>> {
    let mut micros = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        link.exchange(PING, REPLY)?;
        micros.push(start.elapsed().as_secs_f64() * 1e6);
    }
    Ok(micros)
}

/// The rate with `in_flight` on the way at any time, in thousands.
pub(crate) fn thousands_per_second(
    link: &mut Link,
    request: &[u8],
    in_flight: usize,
    total: usize,
) -> Result<f64> {
    let start = Instant::now();
    link.pipeline(request, REPLY, in_flight, total)?;
    #[expect(clippy::cast_precision_loss, reason = "a count of pings")]
    let total = total as f64;
    Ok(total / start.elapsed().as_secs_f64() / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replys_length_is_that_of_qemu_gas_text() {
        assert_eq!(REPLY, b"{\"return\": {}}\n".len());
    }
}
