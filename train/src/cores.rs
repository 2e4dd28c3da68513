//! The cores of one layer and what its paths amount to, from latent weights and scales.

use half::f16;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::residual_sign::derive_signs;

/// The values of a residual-binary layer, scales as the forward pass rounds them.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerValues {
    /// Paths, output and input channels.
    pub shape: [usize; 3],
    /// Output scales `[k, d_out]`.
    pub g: Vec<f32>,
    /// Input scales `[k, d_in]`.
    pub h: Vec<f32>,
    /// Signs `bit[k, d_out, d_in]`, rows padded to whole bytes.
    pub bits: Vec<u8>,
}

/// Scales as they are stored.
pub fn stored_scales(master: &[f32]) -> Vec<f32> {
    master.iter().map(|x| f16::from_f32(*x).to_f32()).collect()
}

impl LayerValues {
    /// Derives the cores as the forward pass does. `g` and `h` are rounded already; `latents` are
    /// one `[d_out, d_in]` for [`Derive::Residual`], else one a path.
    pub fn new(derive: Derive, g: Vec<f32>, h: Vec<f32>, latents: &[&[f32]], k: usize) -> Self {
        let shape = [k, g.len() / k, h.len() / k];
        let bits = match derive {
            Derive::Residual => derive_signs(latents[0], &g, &h, shape),
            Derive::Independent => {
                let rows = latents.iter().flat_map(|w| w.chunks(shape[2]));
                rows.flat_map(|row| row.chunks(8).map(byte)).collect()
            }
        };
        LayerValues { shape, g, h, bits }
    }

    /// Path `i` as a dense matrix g_i ⊙ B_i ⊙ h_i, row-major.
    pub fn path(&self, i: usize) -> Vec<f32> {
        let [_, d_out, d_in] = self.shape;
        let stride = d_in.div_ceil(8);
        let h = &self.h[i * d_in..][..d_in];
        let mut out = Vec::with_capacity(d_out * d_in);
        for row in 0..d_out {
            let g = self.g[i * d_out + row];
            let bits = &self.bits[(i * d_out + row) * stride..][..stride];
            for (column, h) in h.iter().enumerate() {
                let positive = bits[column / 8] >> (column % 8) & 1 == 1;
                out.push(if positive { g * h } else { -(g * h) });
            }
        }
        out
    }

    /// The dense matrix that the layer multiplies by: the sum of its paths, added up in f64.
    pub fn effective(&self) -> Vec<f32> {
        let mut sum = vec![0.0f64; self.shape[1] * self.shape[2]];
        for i in 0..self.shape[0] {
            let path = self.path(i);
            sum.iter_mut()
                .zip(path)
                .for_each(|(sum, x)| *sum += f64::from(x));
        }
        sum.into_iter().map(|x| x as f32).collect()
    }
}

/// The signs of up to eight numbers; 0 is positive.
fn byte(eight: &[f32]) -> u8 {
    let bits = eight.iter().enumerate();
    bits.fold(0, |byte, (bit, x)| byte | u8::from(*x >= 0.0) << bit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_signs_times_scales() {
        let (g, h) = (vec![2.0, 1.0], vec![1.0, 0.5, 0.25, 0.25]);
        let w = [3.0, -0.75];
        let residual = LayerValues::new(Derive::Residual, g.clone(), h.clone(), &[&w], 2);
        assert_eq!(residual.path(0), [2.0, -1.0]);
        // What the first path leaves is 1 and 0.25.
        assert_eq!(residual.path(1), [0.25, 0.25]);
        assert_eq!(residual.effective(), [2.25, -0.75]);
        let latents: [&[f32]; 2] = [&[-1.0, 0.0], &[1.0, -1.0]];
        let independent = LayerValues::new(Derive::Independent, g, h, &latents, 2);
        assert_eq!(independent.path(0), [-2.0, 1.0]);
        assert_eq!(independent.path(1), [0.25, -0.25]);
    }
}
