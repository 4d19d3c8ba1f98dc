//! How much of what all VMs share one of them may have, and one principal.
//!
//! What runs is never taken away, so what one takes the others lack for as long as it likes. As for everything
//! that [callers share](crate::share), a principal may have half of what the others leave; and of that a VM
//! half of what other VMs leave. So neither a few hostile guests nor one caller use up what there is.

use crate::share::fits;

/// What is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) all: usize,
    /// On the VM.
    pub(super) vm: usize,
    /// By the principal; absent where none asks for it.
    pub(super) principal: Option<Own>,
}

/// What a principal has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) all: usize,
    /// On the VM.
    pub(super) vm: usize,
}

/// Who has as much as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All together.
    Everybody,
    /// The VM.
    Vm,
    /// The principal.
    Principal,
}

impl Taken {
    /// One more that somebody has: whether on the VM, and whether the principal's.
    pub(super) fn add(&mut self, on_vm: bool, own: bool) {
        self.all += 1;
        self.vm += usize::from(on_vm);
        if let Some(principal) = self.principal.as_mut().filter(|_| own) {
            principal.all += 1;
            principal.vm += usize::from(on_vm);
        }
    }

    /// Whether there is room for one more, where `most` is all there is.
    pub(super) fn room(self, most: usize) -> Result<(), Full> {
        if self.all >= most {
            return Err(Full::Everybody);
        }
        if !fits(self.vm + 1, self.all - self.vm, most) {
            return Err(Full::Vm);
        }
        let Some(own) = self.principal else { return Ok(()) };
        let others = self.all - own.all;
        if !fits(own.all + 1, others, most) {
            return Err(Full::Principal);
        }
        let share = most.saturating_sub(others).div_ceil(2);
        if fits(own.vm + 1, own.all - own.vm, share) { Ok(()) } else { Err(Full::Vm) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets each principal take what it can on that many VMs of its own, one after the other; what it
    /// got there.
    fn greedy(most: usize, principals: &[usize]) -> Vec<usize> {
        let (mut all, mut got) = (0, Vec::new());
        for &vms in principals {
            let mut own = Own::default();
            for _ in 0..vms {
                own.vm = 0;
                let taken = |all, own: Own| Taken { all, vm: own.vm, principal: Some(own) };
                while taken(all, own).room(most).is_ok() {
                    (all, own) = (all + 1, Own { all: own.all + 1, vm: own.vm + 1 });
                }
                got.push(own.vm);
            }
        }
        got
    }

    #[test]
    fn something_is_left_however_greedy_the_first_ones_are() {
        assert_eq!(greedy(256, &[5]), [64, 32, 16, 8, 4], "four VMs leave something for the fifth");
        let all: usize = greedy(256, &[100]).iter().sum();
        assert_eq!(all, 128, "half is for other principals");
        assert_eq!(greedy(256, &[100, 2])[100..], [32, 16]);
    }

    #[test]
    fn whoever_has_nothing_gets_one_while_there_is_any() {
        for most in 2..40 {
            let got = greedy(most, &[1, 1]);
            assert!(got[0] >= 1 && got[1] >= 1, "{most}: {got:?}");
        }
        assert_eq!(greedy(1, &[1, 1]), [1, 0]);
        assert_eq!(Taken::default().room(0), Err(Full::Everybody));
    }
}
