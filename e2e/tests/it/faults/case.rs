//! Which fault, where, with which agent.

use qga_e2e::sim::Mode;

/// Where in the life of a freeze.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Point {
    BeforeFreeze,
    FreezeInFlight,
    FrozenUnanswered,
    Held,
    RenewInFlight,
    ThawInFlight,
    ThawedUnanswered,
    GroupHalfWay,
    RollingBack,
}

impl Point {
    pub(super) const ALL: [Self; 9] = [
        Self::BeforeFreeze,
        Self::FreezeInFlight,
        Self::FrozenUnanswered,
        Self::Held,
        Self::RenewInFlight,
        Self::ThawInFlight,
        Self::ThawedUnanswered,
        Self::GroupHalfWay,
        Self::RollingBack,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::BeforeFreeze => "before the freeze leaves",
            Self::FreezeInFlight => "freeze in flight",
            Self::FrozenUnanswered => "frozen, not answered",
            Self::Held => "held",
            Self::RenewInFlight => "renewal in flight",
            Self::ThawInFlight => "thaw in flight",
            Self::ThawedUnanswered => "thawed, not answered",
            Self::GroupHalfWay => "group half frozen",
            Self::RollingBack => "group rolling back",
        }
    }

    pub(super) fn is_group(self) -> bool {
        matches!(self, Self::GroupHalfWay | Self::RollingBack)
    }

    /// Whether the orchestrator itself thaws; else the lease's time has to do it.
    pub(super) fn thaws(self) -> bool {
        matches!(self, Self::ThawInFlight | Self::ThawedUnanswered)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Nothing,
    GatewayKilled,
    AgentKilled,
    QemuKilled,
    GuestReset,
    DiskFull,
    HostSuspended,
    SocketReplaced,
    ReplyLost,
    ReplyLate,
}

impl Fault {
    pub(super) const ALL: [Self; 10] = [
        Self::Nothing,
        Self::GatewayKilled,
        Self::AgentKilled,
        Self::QemuKilled,
        Self::GuestReset,
        Self::DiskFull,
        Self::HostSuspended,
        Self::SocketReplaced,
        Self::ReplyLost,
        Self::ReplyLate,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Nothing => "nothing (for comparison)",
            Self::GatewayKilled => "gateway killed -9, started again",
            Self::AgentKilled => "agent killed, started again",
            Self::QemuKilled => "QEMU killed, VM booted again",
            Self::GuestReset => "guest reset",
            Self::DiskFull => "disk full for the lease file",
            Self::HostSuspended => "gateway killed, host suspended for an hour",
            Self::SocketReplaced => "socket replaced by another, frozen VM's",
            Self::ReplyLost => "reply lost",
            Self::ReplyLate => "reply late",
        }
    }
}

/// One cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Case {
    pub(super) agent: Mode,
    pub(super) point: Point,
    pub(super) fault: Fault,
}

impl Case {
    /// All that mean something.
    pub(super) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for agent in [Mode::Stock, Mode::Qga] {
            for fault in Fault::ALL {
                for point in Point::ALL {
                    let case = Self { agent, point, fault };
                    if case.means_something() {
                        all.push(case);
                    }
                }
            }
        }
        all
    }

    /// Without a command in flight there is no reply; a stock agent is not told of a renewal.
    pub(super) fn means_something(&self) -> bool {
        let replies = matches!(self.fault, Fault::ReplyLost | Fault::ReplyLate);
        let silent = match self.point {
            Point::Held => true,
            Point::RenewInFlight => self.agent == Mode::Stock,
            _ => false,
        };
        !(replies && silent)
    }
}
