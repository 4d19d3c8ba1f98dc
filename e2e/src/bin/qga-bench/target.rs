//! What a figure is held to: the numbers of the project's design.

use std::fmt::{self, Display};

/// A bound on a value or on a ratio.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }
}

impl Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(most) => write!(f, "≤ {most}"),
            Self::AtLeast(least) => write!(f, "≥ {least}"),
        }
    }
}

/// What the last column of a row must reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target {
    /// Shown for information.
    Open,
    /// The figure itself, in the row's unit.
    Value(Bound),
    /// The figure by that of another column. Any one of them is enough.
    Ratio(&'static [(usize, Bound)]),
}

impl Target {
    /// In words, with the names of the columns.
    pub(crate) fn text(self, columns: &[String], unit: &str) -> String {
        match self {
            Self::Open => "–".into(),
            Self::Value(bound) => format!("{bound} {unit}"),
            Self::Ratio(ways) => ways
                .iter()
                .map(|(column, bound)| format!("{bound} × {}", columns[*column]))
                .collect::<Vec<_>>()
                .join(" or "),
        }
    }

    /// Whether it is met; `None` if that cannot be told. `ratios` are ours by each column's.
    pub(crate) fn met(self, ours: Option<f64>, ratios: &[Option<f64>]) -> Option<bool> {
        match self {
            Self::Open => None,
            Self::Value(bound) => ours.map(|value| bound.holds(value)),
            Self::Ratio(ways) => {
                let known: Option<Vec<bool>> = ways
                    .iter()
                    .map(|(column, bound)| ratios[*column].map(|ratio| bound.holds(ratio)))
                    .collect();
                let any = ways
                    .iter()
                    .any(|(column, bound)| ratios[*column].is_some_and(|ratio| bound.holds(ratio)));
                // Missed only if no other way is left that could not be measured.
                if any { Some(true) } else { known.map(|_| false) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_ways_is_enough_and_an_unmeasured_one_is_no_miss() {
        let target = Target::Ratio(&[(0, Bound::AtLeast(5.0)), (1, Bound::AtLeast(0.6))]);
        assert_eq!(target.met(None, &[Some(4.0), Some(0.7)]), Some(true));
        assert_eq!(target.met(None, &[Some(4.0), Some(0.5)]), Some(false));
        assert_eq!(target.met(None, &[Some(4.0), None]), None);
        assert_eq!(target.met(None, &[None, Some(0.7)]), Some(true));
        let columns = ["qemu-ga".to_owned(), "bare".to_owned()];
        assert_eq!(target.text(&columns, ""), "≥ 5 × qemu-ga or ≥ 0.6 × bare");
    }

    #[test]
    fn a_value_is_held_to_its_bound() {
        let target = Target::Value(Bound::AtMost(1.8));
        assert_eq!(target.met(Some(1.8), &[]), Some(true));
        assert_eq!(target.met(Some(1.9), &[]), Some(false));
        assert_eq!(target.met(None, &[]), None);
    }
}
