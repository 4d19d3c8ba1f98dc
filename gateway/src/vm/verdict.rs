//! Whether a guest's filesystems stood still from freeze to thaw, as far as its agent lets anybody
//! know.

use std::time::Duration;

use qga_proto::command::{FilesystemFreeze, FreezeResult, ThawResult};

use super::lease::{AgentFreeze, Verdict};

/// What was seen of a freeze.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Facts {
    /// How many filesystems the freeze counted.
    pub(super) frozen: Option<u64>,
    /// How many the thaw counted.
    pub(super) thawed: Option<u64>,
    /// The link broke or went silent in between.
    pub(super) disrupted: bool,
    /// The guest was found thawed before the gateway had thawed it.
    pub(super) found_thawed: bool,
    /// The VM did not come back.
    pub(super) gone: bool,
    /// What is there instead of this freeze.
    pub(super) not_ours: Option<String>,
    /// Something asked for was not frozen.
    pub(super) incomplete: bool,
    /// It was undone before anybody relied on it.
    pub(super) rolled_back: bool,
    /// How long it was frozen, and how long such a guest can hold.
    pub(super) held: Duration,
    pub(super) max_hold: Option<Duration>,
    /// The agent froze for the lease by name, and so tells more.
    pub(super) leased: bool,
    /// What it said at the freeze and at the thaw.
    pub(super) began: Option<AgentFreeze>,
    pub(super) ended: Option<Thawed>,
}

/// What `qga-agent` said of a thaw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Thawed {
    pub(super) count: u64,
    pub(super) boot_id: String,
    pub(super) instance: String,
    pub(super) generation: u64,
    pub(super) filesystems: Vec<FilesystemFreeze>,
}

impl Thawed {
    /// As the guest says, with ids cut as those of a freeze are.
    pub(super) fn new(count: u64, by: AgentFreeze, filesystems: Vec<FilesystemFreeze>) -> Self {
        let AgentFreeze { boot_id, instance, generation } = by;
        Self { count, boot_id, instance, generation, filesystems }
    }
}

impl Facts {
    /// The verdict, and what it rests on as a sentence.
    pub(super) fn judge(&self) -> (Verdict, String) {
        let (verdict, because) = self.rule();
        // A freeze that was rolled back never held anything, whatever the counts say.
        let good = matches!(verdict, Verdict::CountsAgree | Verdict::Held);
        (if self.rolled_back && good { Verdict::Partial } else { verdict }, because)
    }

    fn rule(&self) -> (Verdict, String) {
        if let Some(why) = &self.not_ours {
            return (Verdict::Lost, why.clone());
        }
        if self.gone {
            return (Verdict::Lost, "the VM went away and did not come back".into());
        }
        if self.found_thawed {
            let because = "the guest was thawed before the gateway thawed it".into();
            return (Verdict::Lost, because);
        }
        if let Some(most) = self.max_hold.filter(|most| self.held > *most) {
            let (held, most) = (self.held.as_secs_f64(), most.as_secs());
            let because = format!("held for {held:.1} s, and this guest holds {most} s at most");
            return (Verdict::Lost, because);
        }
        if let (Some(began), Some(ended)) = (&self.began, &self.ended) {
            return self.compare(began, ended);
        }
        self.count()
    }

    /// Both ends of a freeze, in the words of an agent that knows it by name.
    fn compare(&self, began: &AgentFreeze, ended: &Thawed) -> (Verdict, String) {
        if began.boot_id != ended.boot_id {
            return (Verdict::Lost, "the guest was started anew in between".into());
        }
        if began.generation != ended.generation {
            let (first, last) = (began.generation, ended.generation);
            return (Verdict::Lost, format!("frozen in freeze {first}, thawed in freeze {last}"));
        }
        let frozen = ended.filesystems.iter().filter(|f| f.freeze == FreezeResult::Frozen);
        let (held, lost): (Vec<_>, Vec<_>) =
            frozen.partition(|filesystem| filesystem.thaw == Some(ThawResult::Thawed));
        if !lost.is_empty() {
            let lost: Vec<&str> = lost.iter().map(|f| f.mountpoint.as_str()).collect();
            let lost = lost.join(", ");
            return (Verdict::Lost, format!("something else thawed in between: {lost}"));
        }
        let written = |f: &&&FilesystemFreeze| f.written_sectors.is_some_and(|sectors| sectors > 0);
        let torn: Vec<&str> = held.iter().filter(written).map(|f| f.mountpoint.as_str()).collect();
        if !torn.is_empty() {
            let torn = torn.join(", ");
            let because = format!(
                "devices were written to while frozen, so it was thawed behind the agent's back, or \
                 something wrote past the filesystem: {torn}"
            );
            return (Verdict::Lost, because);
        }
        if Some(held.len() as u64) != self.frozen || Some(ended.count) != self.frozen {
            let (frozen, thawed) = (self.frozen.unwrap_or_default(), ended.count);
            let because = format!("the freeze counted {frozen}, the thaw {thawed}");
            let verdict = if thawed < frozen { Verdict::Lost } else { Verdict::Unknown };
            return (verdict, because);
        }
        if began.instance != ended.instance {
            let because = "the agent was started anew in between, with the guest frozen before and \
                           after";
            return (Verdict::Unknown, because.into());
        }
        let because = format!(
            "the same run of the agent thawed what it had frozen, {} filesystems in freeze {}",
            held.len(),
            began.generation
        );
        if self.incomplete {
            return (Verdict::Partial, format!("{because}; not everything was frozen"));
        }
        // A kernel that does not count leaves room for a thaw behind the agent's back.
        if held.iter().any(|filesystem| filesystem.written_sectors.is_none()) {
            let because = format!("{because}; whether anything was written meanwhile is not known");
            return (Verdict::CountsAgree, because);
        }
        (Verdict::Held, because)
    }

    /// Both ends of a freeze by a stock agent.
    fn count(&self) -> (Verdict, String) {
        let (Some(frozen), Some(thawed)) = (self.frozen, self.thawed) else {
            let missing = if self.frozen.is_none() { "freeze" } else { "thaw" };
            return (Verdict::Unknown, format!("there is no count of the {missing}"));
        };
        let counts = format!("the freeze counted {frozen}, the thaw {thawed}");
        if thawed < frozen {
            return (Verdict::Lost, format!("{counts}: something else thawed in between"));
        }
        if thawed > frozen {
            return (Verdict::Unknown, format!("{counts}: something else froze too"));
        }
        if self.disrupted {
            return (Verdict::Unknown, format!("{counts}, but the link broke in between"));
        }
        if self.incomplete {
            return (Verdict::Partial, format!("{counts}, and not everything was frozen"));
        }
        (Verdict::CountsAgree, format!("{counts}; no reset or reconnect was seen"))
    }
}

#[cfg(test)]
mod tests;
