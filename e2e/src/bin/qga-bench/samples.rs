//! A figure, taken once per round.

use serde::Serialize;

/// One value per round, in the order of the rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// NaN when there are none.
    pub(crate) fn median(&self) -> f64 {
        quantile(&self.sorted(), 0.5)
    }

    pub(crate) fn min(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn max(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(f64::NAN)
    }

    /// This by `other`, round by round where both have the same rounds: what disturbed the
    /// machine during a round disturbed both.
    pub(crate) fn ratio_to(&self, other: &Self) -> f64 {
        if self.0.len() == other.0.len() {
            self.zip(other, |ours, theirs| ours / theirs).median()
        } else {
            self.median() / other.median()
        }
    }

    /// Combines the values of each round.
    pub(crate) fn zip(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(&a, &b)| combine(a, b)).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

/// The value below which the share `q` of the sorted values lies; NaN when there are none.
pub(crate) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "an index into a short list"
    )]
    let at = (q * last as f64).round() as usize;
    sorted[at.min(last)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_extremes_and_ratio_are_taken_over_the_rounds() {
        let ours = Samples(vec![1.0, 9.0, 2.0]);
        assert_eq!((ours.median(), ours.min(), ours.max()), (2.0, 1.0, 9.0));
        // A disturbed round moves both values and hardly the ratio.
        let theirs = Samples(vec![4.0, 36.0, 4.0]);
        assert_eq!(ours.ratio_to(&theirs), 0.25);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let sorted: Vec<f64> = (0..=100).map(f64::from).collect();
        assert_eq!((quantile(&sorted, 0.5), quantile(&sorted, 0.99)), (50.0, 99.0));
    }
}
