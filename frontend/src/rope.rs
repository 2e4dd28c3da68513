//! Inverse frequencies of rotary embeddings, as Hugging Face transformers computes them: in f32,
//! step by step. Powers are taken in f64 and rounded, so that they do not depend on the machine's
//! mathematics library.

use std::f64::consts::PI;

use crate::config::{RopeConfig, RopeScaling};

impl RopeConfig {
    /// `head_dim / 2` angular frequencies, in radians a position, highest first.
    pub fn inv_freq(&self, head_dim: usize) -> Vec<f32> {
        let wave = wave_numbers(self.theta, head_dim);
        let plain = || wave.iter().map(|w| 1.0 / w);
        match &self.scaling {
            RopeScaling::Default => plain().collect(),
            RopeScaling::Linear { factor } => plain().map(|f| f / *factor as f32).collect(),
            RopeScaling::Llama3 { .. } => plain().map(|f| self.llama3(f)).collect(),
            RopeScaling::Yarn { .. } => self.yarn(&wave, head_dim),
        }
    }

    /// The factor on cos and sin: 1 but for YaRN.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            RopeScaling::Yarn {
                attention_factor, ..
            } => attention_factor as f32,
            _ => 1.0,
        }
    }

    fn llama3(&self, freq: f32) -> f32 {
        let RopeScaling::Llama3 {
            factor,
            low_freq_factor: low,
            high_freq_factor: high,
            original_context,
        } = self.scaling
        else {
            return freq;
        };
        let context = original_context as f64;
        let wavelength = (2.0 * PI) as f32 / freq;
        if wavelength < (context / high) as f32 {
            return freq;
        }
        if wavelength > (context / low) as f32 {
            return freq / factor as f32;
        }
        let smooth = (context as f32 / wavelength - low as f32) / (high - low) as f32;
        (1.0 - smooth) * freq / factor as f32 + smooth * freq
    }

    fn yarn(&self, wave: &[f32], head_dim: usize) -> Vec<f32> {
        let RopeScaling::Yarn {
            factor,
            original_context,
            beta_fast,
            beta_slow,
            truncate,
            ..
        } = self.scaling
        else {
            return Vec::new();
        };
        let dim = head_dim as f64;
        // The channel at which a frequency turns `rotations` times over the original context.
        let channel = |rotations: f64| {
            dim * (original_context as f64 / (rotations * 2.0 * PI)).ln() / (2.0 * self.theta.ln())
        };
        let (mut low, mut high) = (channel(beta_fast), channel(beta_slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        (low, high) = (low.max(0.0), high.min(dim - 1.0));
        if low == high {
            high += 0.001;
        }
        let ramp = |(i, &w): (usize, &f32)| {
            let slow = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
            let keep = 1.0 - slow;
            1.0 / (factor as f32 * w) * (1.0 - keep) + 1.0 / w * keep
        };
        wave.iter().enumerate().map(ramp).collect()
    }
}

/// theta^(2i / head_dim), the wavelengths over 2π.
fn wave_numbers(theta: f64, head_dim: usize) -> Vec<f32> {
    (0..head_dim)
        .step_by(2)
        .map(|i| {
            let exponent = i as f32 / head_dim as f32;
            f64::from(theta as f32).powf(f64::from(exponent)) as f32
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling) -> RopeConfig {
        RopeConfig {
            theta: 10_000.0,
            scaling,
        }
    }

    #[test]
    fn frequencies_fall_from_one_by_equal_ratios() {
        let freq = rope(RopeScaling::Default).inv_freq(8);
        assert_eq!(freq, [1.0, 0.1, 0.01, 0.001]);
        let linear = rope(RopeScaling::Linear { factor: 4.0 });
        assert_eq!(linear.inv_freq(8), [0.25, 0.025, 0.0025, 0.00025]);
        assert_eq!(linear.attention_factor(), 1.0);
    }

    #[test]
    fn llama3_keeps_high_frequencies_and_divides_low_ones() {
        let freq = rope(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 64 * 7,
        })
        .inv_freq(8);
        assert_eq!((freq[0], freq[1]), (1.0, 0.1));
        // Wavelengths of 628 and 6283 are above the whole context of 448.
        assert_eq!((freq[2], freq[3]), (0.01 / 8.0, 0.001 / 8.0));
    }

    #[test]
    fn yarn_lies_between_kept_and_divided() {
        let yarn = rope(RopeScaling::Yarn {
            factor: 4.0,
            original_context: 64,
            attention_factor: 1.138_629_4,
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        });
        let (plain, found) = (rope(RopeScaling::Default).inv_freq(16), yarn.inv_freq(16));
        for (i, (p, f)) in plain.iter().zip(&found).enumerate() {
            assert!(*f <= *p * 1.000_001 && *f >= p / 4.000_001, "{i}: {p} {f}");
        }
        assert_eq!(found[7], plain[7] / 4.0);
        assert_eq!(yarn.attention_factor(), 1.138_629_4);
    }
}
