//! Least squares in a handful of non-negative unknowns.

/// Most passes over the unknowns: signs of different paths are nearly uncorrelated, so few are
/// needed.
const MAX_PASSES: usize = 32;

/// The quadratic whose minimiser is the best set of scales, seen from the present scales.
pub(super) struct Quadratic<const K: usize> {
    /// Gram matrix, symmetric.
    gram: [[f64; K]; K],
    /// Half the negative gradient at the present scales: inner products with the residual.
    pub(super) slope: [f64; K],
}

impl<const K: usize> Quadratic<K> {
    /// A problem with this diagonal of the Gram matrix and nothing else yet.
    pub(super) fn new(diagonal: &[f64; K]) -> Self {
        let mut gram = [[0.0; K]; K];
        for i in 0..K {
            gram[i][i] = diagonal[i];
        }
        Self {
            gram,
            slope: [0.0; K],
        }
    }

    /// Adds to the Gram matrix at `(i, j)` and `(j, i)`, `i != j`.
    pub(super) fn add_cross(&mut self, i: usize, j: usize, value: f64) {
        self.gram[i][j] += value;
        self.gram[j][i] += value;
    }
}

/// The best non-negative scales, one unknown at a time from the present ones.
///
/// An unknown that has no influence keeps its value, so a singular problem is no special case.
pub(super) fn minimise<const K: usize>(problem: Quadratic<K>, present: &[f32; K]) -> [f32; K] {
    let Quadratic { gram, mut slope } = problem;
    let mut x = present.map(f64::from);
    for _ in 0..MAX_PASSES {
        let mut moved = 0.0f64;
        for i in 0..K {
            if gram[i][i] <= 0.0 {
                continue;
            }
            let step = (x[i] + slope[i] / gram[i][i]).max(0.0) - x[i];
            x[i] += step;
            for j in 0..K {
                slope[j] -= gram[i][j] * step;
            }
            moved = moved.max(step.abs() / x[i].abs().max(f64::MIN_POSITIVE));
        }
        if moved < 1e-6 {
            break;
        }
    }
    x.map(|x| x as f32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problem of reaching `goal` from `present` under this Gram matrix.
    fn towards<const K: usize>(gram: [[f64; K]; K], present: [f32; K], goal: [f64; K]) -> [f32; K] {
        let mut slope = [0.0; K];
        for i in 0..K {
            for j in 0..K {
                slope[i] += gram[i][j] * (goal[j] - f64::from(present[j]));
            }
        }
        minimise(Quadratic { gram, slope }, &present)
    }

    #[test]
    fn reaches_an_inner_minimum() {
        let gram = [[4.0, 1.0, -0.5], [1.0, 3.0, 0.2], [-0.5, 0.2, 2.0]];
        let got = towards(gram, [1.0, 0.0, 2.0], [0.5, 0.25, 1.5]);
        for (got, want) in got.iter().zip([0.5, 0.25, 1.5]) {
            assert!((got - want).abs() < 1e-5, "{got} for {want}");
        }
    }

    #[test]
    fn stops_at_zero() {
        // With the second unknown held at zero the first is best at 2 - 1/2.
        let got = towards([[2.0, 1.0], [1.0, 2.0]], [1.0, 1.0], [2.0, -1.0]);
        assert!((got[0] - 1.5).abs() < 1e-5 && got[1] == 0.0, "{got:?}");
    }

    #[test]
    fn keeps_what_has_no_influence() {
        assert_eq!(
            towards([[0.0, 0.0], [0.0, 1.0]], [3.0, 1.0], [9.0, 2.0]),
            [3.0, 2.0]
        );
    }
}
