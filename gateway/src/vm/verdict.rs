//! Whether a guest's filesystems stood still from freeze to thaw, as far as a stock agent lets
//! anybody know.

use std::time::Duration;

use super::lease::Verdict;

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
    /// Something asked for was not frozen.
    pub(super) incomplete: bool,
    /// How long it was frozen, and how long such a guest can hold.
    pub(super) held: Duration,
    pub(super) max_hold: Option<Duration>,
}

impl Facts {
    /// The verdict, with its evidence appended as sentences.
    pub(super) fn judge(&self, evidence: &mut Vec<String>) -> Verdict {
        let (verdict, because) = self.rule();
        evidence.push(because);
        verdict
    }

    fn rule(&self) -> (Verdict, String) {
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
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_verdict() {
        let agree = Facts { frozen: Some(2), thawed: Some(2), ..Facts::default() };
        let long = Duration::from_secs(11);
        let cases = [
            (agree.clone(), Verdict::CountsAgree),
            (Facts { thawed: Some(1), ..agree.clone() }, Verdict::Lost),
            (Facts { thawed: Some(0), ..agree.clone() }, Verdict::Lost),
            (Facts { thawed: Some(3), ..agree.clone() }, Verdict::Unknown),
            (Facts { thawed: None, ..agree.clone() }, Verdict::Unknown),
            (Facts { frozen: None, ..agree.clone() }, Verdict::Unknown),
            (Facts { disrupted: true, ..agree.clone() }, Verdict::Unknown),
            (Facts { incomplete: true, ..agree.clone() }, Verdict::Partial),
            (Facts { found_thawed: true, ..agree.clone() }, Verdict::Lost),
            (Facts { gone: true, ..agree.clone() }, Verdict::Lost),
            (
                Facts { held: long, max_hold: Some(Duration::from_secs(10)), ..agree.clone() },
                Verdict::Lost,
            ),
            (Facts { held: long, ..agree }, Verdict::CountsAgree),
        ];
        for (facts, verdict) in cases {
            let mut evidence = Vec::new();
            assert_eq!(facts.judge(&mut evidence), verdict, "{facts:?}");
            assert_eq!(evidence.len(), 1);
        }
    }
}
