//! AdamW (Loshchilov and Hutter, arXiv 1711.05101), element by element, in f64: what engines'
//! updates are compared with.

use half::bf16;
use rabitc_ir::DType;

use crate::engine::{EngineError, Trainable, Update};

/// One step on one weight tensor.
pub struct Step<'a> {
    update: &'a Update,
    dtype: DType,
    rate: f64,
    decay: f64,
    /// 1 − β₁ᵗ and 1 − β₂ᵗ.
    corrections: [f64; 2],
    /// What stochastic rounding of this tensor starts from.
    noise: u64,
}

impl<'a> Step<'a> {
    /// The step `update` on `what`, the tensor of this number.
    pub fn new(update: &'a Update, what: &Trainable, number: usize) -> Result<Self, EngineError> {
        let rate = update.learning_rates.get(what.group);
        let missing = || EngineError::new(format!("`{}`: no rate of its group", what.name));
        let power = |beta: f32| 1.0 - f64::from(beta).powf(update.step as f64);
        Ok(Step {
            update,
            dtype: what.dtype,
            rate: f64::from(*rate.ok_or_else(missing)?),
            decay: f64::from(what.decay),
            corrections: [power(update.beta1), power(update.beta2)],
            noise: mix(mix(update.seed ^ mix(update.step)) ^ number as u64),
        })
    }

    /// Element `i` after the step, and its moments brought up to date:
    ///
    /// m ← β₁ m + (1 − β₁) g, v ← β₂ v + (1 − β₂) g²,
    /// w ← w − η (m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε) + decay · w).
    pub fn apply(&self, i: usize, w: f32, gradient: f64, moments: (&mut f32, &mut f32)) -> f32 {
        let u = self.update;
        let g = gradient * f64::from(u.gradient_factor);
        let (beta1, beta2) = (f64::from(u.beta1), f64::from(u.beta2));
        let m = beta1 * f64::from(*moments.0) + (1.0 - beta1) * g;
        let v = beta2 * f64::from(*moments.1) + (1.0 - beta2) * g * g;
        (*moments.0, *moments.1) = (m as f32, v as f32);
        let [c1, c2] = self.corrections;
        let direction = m / c1 / ((v / c2).sqrt() + f64::from(u.eps));
        let w = f64::from(w);
        let new = (w - self.rate * (direction + self.decay * w)) as f32;
        match self.dtype {
            DType::BF16 => stochastic(new, mix(self.noise ^ i as u64) as u16),
            _ => new,
        }
    }
}

/// `x` rounded to bf16: up with the probability of what is cut off. `noise` is uniform.
fn stochastic(x: f32, noise: u16) -> f32 {
    if !x.is_finite() {
        return bf16::from_f32(x).to_f32();
    }
    let bits = x.to_bits().wrapping_add(u32::from(noise)) & 0xffff_0000;
    f32::from_bits(bits)
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(step: u64) -> Update {
        Update {
            step,
            seed: 7,
            learning_rates: vec![0.5, 0.1],
            beta1: 0.9,
            beta2: 0.99,
            eps: 0.0,
            gradient_factor: 2.0,
        }
    }

    fn trainable(dtype: DType) -> Trainable {
        Trainable {
            name: "w".into(),
            shape: vec![1],
            dtype,
            group: 1,
            decay: 0.25,
        }
    }

    /// The first step moves every weight by its rate against the sign of its gradient.
    #[test]
    fn the_first_step_is_the_rate() {
        let (update, what) = (update(1), trainable(DType::F32));
        let step = Step::new(&update, &what, 0).unwrap();
        let (mut m, mut v) = (0.0, 0.0);
        let w = step.apply(0, 4.0, -3.0, (&mut m, &mut v));
        assert_eq!(w, 4.0 - 0.1 * (-1.0 + 0.25 * 4.0));
        assert!((f64::from(m) + 0.6).abs() < 1e-6 && (f64::from(v) - 0.36).abs() < 1e-6);
    }

    #[test]
    fn a_group_without_a_rate_is_refused() {
        let what = Trainable {
            group: 2,
            ..trainable(DType::F32)
        };
        assert!(Step::new(&update(1), &what, 0).is_err());
    }

    /// Over many elements, what is rounded stochastically is right on average.
    #[test]
    fn stochastic_rounding_has_no_bias() {
        let (low, high) = (1.0f32, 1.0 + 1.0 / 128.0);
        let x = 1.0 + 0.3 / 128.0;
        let n = 1u64 << 16;
        let ups = (0..n).filter(|i| {
            let rounded = stochastic(x, mix(*i) as u16);
            assert!(rounded == low || rounded == high);
            rounded == high
        });
        // Five standard deviations of a binomial count.
        let (mean, deviation) = (0.3 * n as f64, (0.3 * 0.7 * n as f64).sqrt());
        assert!((ups.count() as f64 - mean).abs() < 5.0 * deviation);
        assert_eq!(stochastic(f32::INFINITY, 9), f32::INFINITY);
    }
}
