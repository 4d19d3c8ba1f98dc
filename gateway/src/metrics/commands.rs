//! Guest commands: how they ended and how long that took, by command.

use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use qga_proto::ReplyError;
use qga_proto::command::COMMANDS;

use super::{Counter, Histogram};

/// What a command that no table has is counted as: a guest could make up any number of names.
const OTHER: &str = "other";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandOutcome {
    Ok,
    /// The agent refused it or failed.
    Error,
    /// The agent does not have it.
    Unsupported,
    /// No answer came in time.
    Timeout,
    /// What came was no answer.
    BadReply,
    /// The connection ended, or a later sync was answered.
    Lost,
}

impl CommandOutcome {
    const ALL: [(Self, &str); 6] = [
        (Self::Ok, "ok"),
        (Self::Error, "error"),
        (Self::Unsupported, "unsupported"),
        (Self::Timeout, "timeout"),
        (Self::BadReply, "bad_reply"),
        (Self::Lost, "lost"),
    ];

    pub(crate) fn of<T>(result: &Result<T, ReplyError>) -> Self {
        match result {
            Ok(_) => Self::Ok,
            Err(ReplyError::Agent(error)) if error.is_not_found() => Self::Unsupported,
            Err(ReplyError::Agent(_)) => Self::Error,
            Err(ReplyError::TimedOut) => Self::Timeout,
            Err(ReplyError::BadReply(_)) => Self::BadReply,
            Err(ReplyError::Lost) => Self::Lost,
        }
    }
}

/// The commands' figures, for all VMs together.
#[derive(Debug)]
pub(crate) struct CommandFigures {
    /// As [`names`] has them. A command that was never sent costs nothing.
    rows: Box<[OnceLock<Row>]>,
    /// How long calls waited in their VM's queue.
    pub(crate) waits: Histogram,
}

#[derive(Debug)]
struct Row {
    latency: Histogram,
    outcomes: [Counter; CommandOutcome::ALL.len()],
}

/// What is known of one command.
pub(crate) struct CommandRow<'a> {
    pub(crate) name: &'static str,
    pub(crate) latency: &'a Histogram,
    pub(crate) outcomes: Vec<(&'static str, u64)>,
}

/// All names that there are, in order.
fn names() -> &'static [&'static str] {
    static NAMES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
        let mut names: Vec<_> = COMMANDS.iter().map(|info| info.name).chain([OTHER]).collect();
        names.sort_unstable();
        names
    });
    &NAMES
}

impl Default for CommandFigures {
    fn default() -> Self {
        let rows = names().iter().map(|_| OnceLock::new()).collect();
        Self { rows, waits: Histogram::latency() }
    }
}

impl CommandFigures {
    /// Notes one that was sent that long ago.
    pub(crate) fn note(&self, name: &str, outcome: CommandOutcome, took: Duration) {
        let find = |name: &str| names().binary_search(&name).ok();
        let row = find(name).or_else(|| find(OTHER)).and_then(|at| self.rows.get(at));
        // The last of them is always there.
        let Some(row) = row else { return };
        let row =
            row.get_or_init(|| Row { latency: Histogram::latency(), outcomes: Default::default() });
        row.latency.observe(took);
        row.outcomes[outcome as usize].add(1);
    }

    /// Those that were ever sent.
    pub(crate) fn rows(&self) -> impl Iterator<Item = CommandRow<'_>> {
        names().iter().zip(&self.rows).filter_map(|(name, row)| {
            let Row { latency, outcomes } = row.get()?;
            let outcomes = CommandOutcome::ALL.iter().zip(outcomes);
            let outcomes = outcomes.map(|((_, word), count)| (*word, count.get())).collect();
            Some(CommandRow { name, latency, outcomes })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_table_however_many_a_guest_makes_up() {
        let figures = CommandFigures::default();
        for n in 0..1000 {
            figures.note(&format!("x-{n}"), CommandOutcome::Error, Duration::ZERO);
        }
        figures.note("guest-ping", CommandOutcome::Lost, Duration::ZERO);
        let rows: Vec<_> = figures.rows().collect();
        assert_eq!(rows.iter().map(|row| row.name).collect::<Vec<_>>(), ["guest-ping", "other"]);
        let lost = ("lost", 1);
        assert_eq!(rows[0].outcomes.iter().filter(|(_, n)| *n > 0).collect::<Vec<_>>(), [&lost]);
        assert_eq!(rows[1].latency.distribution().count, 1000);
        for (n, (outcome, _)) in CommandOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, n);
        }
    }
}
