//! What a test has done to the commands of one guest: how long they take, what goes wrong with
//! them, and where they stop until the test goes on.

use std::time::Duration;

use qga_proto::command::CommandInfo;

use super::random::Random;

/// How long commands take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Latency {
    /// No time.
    #[default]
    None,
    /// Always the same.
    Fixed(Duration),
    /// Anything between the two.
    Uniform(Duration, Duration),
}

impl Latency {
    pub(super) fn draw(self, random: &mut Random) -> Duration {
        match self {
            Self::None => Duration::ZERO,
            Self::Fixed(always) => always,
            Self::Uniform(least, most) => {
                let range = u64::try_from(most.saturating_sub(least).as_nanos()).unwrap_or(0);
                least + Duration::from_nanos(random.below(range + 1))
            }
        }
    }
}

/// A point in a command's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// The agent has read it, and done nothing.
    Received,
    /// It is done, and its reply is not written.
    Executed,
}

/// Which commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commands {
    /// All.
    Any,
    /// All but syncs.
    Calls,
    /// Those that freeze.
    Freezes,
    /// Those that thaw.
    Thaws,
    /// All but syncs and those that freeze or thaw: what a client asks before and after.
    Questions,
    /// The one with this name.
    Named(&'static str),
}

impl Commands {
    pub(super) fn include(self, info: &CommandInfo) -> bool {
        match self {
            Self::Any => true,
            Self::Calls => !info.is_sync(),
            Self::Freezes => info.is_freeze(),
            Self::Thaws => info.is_thaw(),
            Self::Questions => !info.is_sync() && !info.is_freeze() && !info.is_thaw(),
            Self::Named(name) => info.name == name,
        }
    }
}

/// What is done to a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// What an agent does.
    #[default]
    Pass,
    /// It is not run, and never answered.
    Swallow,
    /// Its reply is lost.
    Lose,
    /// Its reply comes twice.
    Repeat,
    /// Its reply comes so much later; other commands wait or not, as the agent has it.
    Late(Duration),
    /// These bytes come instead of its reply.
    Instead(Vec<u8>),
    /// This JSON text is its answer; it is not run if that is decided when it comes.
    Answer(Vec<u8>),
    /// The connection is closed; a reply waits for the next client, if the agent keeps it.
    HangUp,
}

/// What happens to commands from now on.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Which commands.
    pub commands: Commands,
    /// When.
    pub moment: Moment,
    /// How often; then the rule is over. `None` is always.
    pub times: Option<usize>,
    /// What.
    pub act: Act,
}

/// A place where commands wait for the test.
#[derive(Debug)]
struct Stop {
    id: u64,
    commands: Commands,
    moment: Moment,
    /// The command that waits, or has waited.
    reached: Option<&'static str>,
    released: Option<Act>,
}

/// All of it, for one guest.
#[derive(Debug)]
pub(super) struct Script {
    random: Random,
    latency: Vec<(Commands, Latency)>,
    rules: Vec<Rule>,
    stops: Vec<Stop>,
    next: u64,
    slowest: Duration,
}

/// What a command meets at a point.
#[derive(Debug)]
pub(super) enum Met {
    Act(Act),
    /// It waits at this stop.
    Stop(u64),
}

impl Script {
    pub(super) fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        Self {
            random,
            latency: Vec::new(),
            rules: Vec::new(),
            stops: Vec::new(),
            next: 0,
            slowest: Duration::ZERO,
        }
    }

    pub(super) fn latency(&mut self, commands: Commands, latency: Latency) {
        self.latency.insert(0, (commands, latency));
    }

    pub(super) fn rule(&mut self, rule: Rule) {
        self.rules.push(rule);
    }

    pub(super) fn clear_rules(&mut self) {
        self.rules.clear();
    }

    /// Whether a command runs at once and undisturbed.
    pub(super) fn is_plain(&self, info: &CommandInfo) -> bool {
        !self.rules.iter().any(|rule| rule.commands.include(info))
            && !self.stops.iter().any(|stop| stop.reached.is_none() && stop.commands.include(info))
            && !self
                .latency
                .iter()
                .any(|(commands, latency)| *latency != Latency::None && commands.include(info))
    }

    pub(super) fn draw(&mut self, info: &CommandInfo) -> Duration {
        let found = self.latency.iter().find(|(commands, _)| commands.include(info));
        let latency = found.map_or(Latency::None, |(_, latency)| *latency);
        let drawn = latency.draw(&mut self.random);
        self.slowest = self.slowest.max(drawn);
        drawn
    }

    /// The longest latency so far.
    pub(super) fn slowest(&self) -> Duration {
        self.slowest
    }

    pub(super) fn forget_slowest(&mut self) {
        self.slowest = Duration::ZERO;
    }

    pub(super) fn stop(&mut self, commands: Commands, moment: Moment) -> u64 {
        let id = self.next;
        self.next += 1;
        self.stops.push(Stop { id, commands, moment, reached: None, released: None });
        id
    }

    /// What happens to a command at this point.
    pub(super) fn meet(&mut self, info: &'static CommandInfo, moment: Moment) -> Met {
        let here = |stop: &&mut Stop| {
            stop.reached.is_none() && stop.moment == moment && stop.commands.include(info)
        };
        if let Some(stop) = self.stops.iter_mut().find(here) {
            stop.reached = Some(info.name);
            return Met::Stop(stop.id);
        }
        let rule = self.rules.iter().position(|rule| {
            rule.moment == moment && rule.commands.include(info) && rule.times != Some(0)
        });
        let Some(at) = rule else { return Met::Act(Act::Pass) };
        let act = self.rules[at].act.clone();
        if let Some(times) = &mut self.rules[at].times {
            *times -= 1;
            if *times == 0 {
                self.rules.remove(at);
            }
        }
        Met::Act(act)
    }

    /// The command that waits at a stop.
    pub(super) fn reached(&self, id: u64) -> Option<&'static str> {
        self.stops.iter().find(|stop| stop.id == id)?.reached
    }

    /// Lets it go on, or lets commands pass that have not come yet.
    pub(super) fn release(&mut self, id: u64, act: Act) {
        let Some(at) = self.stops.iter().position(|stop| stop.id == id) else { return };
        match self.stops[at].reached {
            // The first word counts: dropping the stop is a second one.
            Some(_) => _ = self.stops[at].released.get_or_insert(act),
            None => drop(self.stops.remove(at)),
        }
    }

    /// What a waiting command does when it is let go; a stop that is gone lets it pass.
    pub(super) fn released(&mut self, id: u64) -> Option<Act> {
        let Some(at) = self.stops.iter().position(|stop| stop.id == id) else {
            return Some(Act::Pass);
        };
        self.stops[at].released.as_ref()?;
        self.stops.remove(at).released
    }
}
