//! What QMP lets a VM's session know, without a queue: only the last word on the port counts, and
//! what ended the guest ended it once.

use std::sync::atomic::{AtomicU8, Ordering};

/// Something seen through QMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    PortOpened,
    PortClosed,
    PortUnknown,
    Reset,
    Shutdown,
    Panicked,
}

impl Sign {
    /// What happened, as a sentence.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::PortOpened => "the guest has opened the agent's port",
            Self::PortClosed => {
                "nothing in the guest has the agent's port open: the agent is not running"
            }
            Self::PortUnknown => "whether the guest has the agent's port open is not known",
            Self::Reset => "the guest was reset",
            Self::Shutdown => "the guest was shut down",
            Self::Panicked => "the guest's kernel has panicked",
        }
    }
}

const OPENED: u8 = 1;
const CLOSED: u8 = 2;
const RESET: u8 = 4;
const SHUTDOWN: u8 = 8;
const PANICKED: u8 = 16;
/// Not news, but how the port stands.
const IS_CLOSED: u8 = 128;
const IS_TOLD: u8 = 64;
const STANDING: u8 = IS_CLOSED | IS_TOLD;

/// The signs that nobody has looked at yet.
#[derive(Debug, Default)]
pub(super) struct Signs(AtomicU8);

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// The guest that was there is not there any more.
    pub(super) ended: Option<Sign>,
    /// The port was closed at least once.
    pub(super) closed: bool,
    /// It was opened, and is open.
    pub(super) opened: bool,
}

impl Signs {
    pub(super) fn add(&self, sign: Sign) {
        let (set, clear) = match sign {
            Sign::PortOpened => (OPENED | IS_TOLD, IS_CLOSED),
            Sign::PortClosed => (CLOSED | STANDING, OPENED),
            Sign::PortUnknown => (0, STANDING),
            Sign::Reset => (RESET, 0),
            Sign::Shutdown => (SHUTDOWN, 0),
            Sign::Panicked => (PANICKED, 0),
        };
        // One writer per VM, and a reader that takes whole values.
        self.0.fetch_and(!clear, Ordering::Relaxed);
        self.0.fetch_or(set, Ordering::Relaxed);
    }

    /// Takes the news. How the port stands remains.
    pub(super) fn take(&self) -> News {
        if self.0.load(Ordering::Relaxed) & !STANDING == 0 {
            return News::default();
        }
        let bits = self.0.fetch_and(STANDING, Ordering::Relaxed);
        let ended = [(RESET, Sign::Reset), (SHUTDOWN, Sign::Shutdown), (PANICKED, Sign::Panicked)];
        let ended = ended.into_iter().find(|(bit, _)| bits & bit != 0).map(|(_, sign)| sign);
        News { ended, closed: bits & CLOSED != 0, opened: bits & OPENED != 0 }
    }

    /// Whether QMP says that the guest does not have the port open.
    pub(super) fn port_is_closed(&self) -> bool {
        self.0.load(Ordering::Relaxed) & IS_CLOSED != 0
    }

    /// Whether QMP will say so when that changes.
    pub(super) fn port_is_told(&self) -> bool {
        self.0.load(Ordering::Relaxed) & IS_TOLD != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_the_port_counts_and_a_closing_is_not_missed() {
        let signs = Signs::default();
        signs.add(Sign::PortClosed);
        signs.add(Sign::PortOpened);
        assert_eq!(signs.take(), News { ended: None, closed: true, opened: true });
        assert_eq!(signs.take(), News::default());
        signs.add(Sign::PortOpened);
        signs.add(Sign::PortClosed);
        assert_eq!(signs.take(), News { ended: None, closed: true, opened: false });
        assert!(signs.port_is_closed());
        signs.add(Sign::Reset);
        assert_eq!(signs.take().ended, Some(Sign::Reset));
        signs.add(Sign::PortUnknown);
        assert!(!signs.port_is_closed());
    }
}
