//! Mean, standard deviation and median.

use serde::Serialize;

/// A summary of measurements of one thing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stats {
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample; 0 for one measurement.
    pub sd: f64,
    /// The middle one, or the mean of the two in the middle.
    pub median: f64,
    /// The measurements, in order.
    pub runs: Vec<f64>,
}

impl Stats {
    /// Summarises `runs`; `None` if there are none.
    pub fn of(runs: &[f64]) -> Option<Stats> {
        let n = runs.len();
        if n == 0 {
            return None;
        }
        let mean = runs.iter().sum::<f64>() / n as f64;
        let squares: f64 = runs.iter().map(|x| (x - mean).powi(2)).sum();
        let mut sorted = runs.to_vec();
        sorted.sort_by(f64::total_cmp);
        Some(Stats {
            mean,
            sd: (squares / (n.max(2) - 1) as f64).sqrt(),
            median: (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
            runs: runs.to_vec(),
        })
    }

    /// The smallest and the largest measurement.
    pub fn range(&self) -> (f64, f64) {
        let fold = |start, pick: fn(f64, f64) -> f64| self.runs.iter().copied().fold(start, pick);
        (
            fold(f64::INFINITY, f64::min),
            fold(f64::NEG_INFINITY, f64::max),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_samples() {
        let stats = Stats::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((stats.mean, stats.median), (2.5, 2.5));
        assert!((stats.sd - (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(stats.range(), (1.0, 4.0));
        let one = Stats::of(&[7.0]).unwrap();
        assert_eq!((one.mean, one.sd, one.median), (7.0, 0.0, 7.0));
        assert_eq!(Stats::of(&[9.0, 1.0, 2.0]).unwrap().median, 2.0);
        assert_eq!(Stats::of(&[]), None);
    }
}
