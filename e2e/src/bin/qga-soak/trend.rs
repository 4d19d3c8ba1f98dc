//! Whether something grows: the median of all slopes between two samples (Theil and Sen), which a
//! third of wild samples does not move.

/// A figure over time, in seconds.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (at, (time, value)) in points.iter().enumerate() {
        for (later, more) in &points[at + 1..] {
            if later > time {
                slopes.push((more - value) / (later - time));
            }
        }
    }
    median(slopes)
}

/// The one in the middle; 0 of none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (None, _) => 0.0,
        (Some(value), 1) => *value,
        (Some(value), _) => f64::midpoint(values[middle - 1], *value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wild_samples_do_not_move_it() {
        let line = |at: u32| (f64::from(at), 10.0 + 2.0 * f64::from(at));
        let mut points: Vec<_> = (0..40).map(line).collect();
        assert!((slope(&points) - 2.0).abs() < 1e-9);
        (0..40).step_by(5).for_each(|at| points[at].1 = 9e9);
        assert!((slope(&points) - 2.0).abs() < 0.3, "{}", slope(&points));
        assert!(slope(&[(0.0, 1.0)]).abs() < 1e-9 && slope(&[]).abs() < 1e-9);
        let flat: Vec<_> = (0..9).map(|at| (f64::from(at), 5.0)).collect();
        assert!(slope(&flat).abs() < 1e-9);
    }

    #[test]
    fn medians() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median(Vec::new()).abs() < 1e-9);
    }
}
