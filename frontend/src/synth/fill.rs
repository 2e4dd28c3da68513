//! The values of random tensors, produced in blocks of bytes.

use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// Spread of the scales: the standard deviation of their logarithm.
const SCALE_SPREAD: f32 = 0.25;
/// Size of the first path's contribution: the mean magnitude of a normal weight of unit variance.
const FIRST_PATH: f32 = 0.8;
/// Size of each further path's contribution relative to the one before it.
const NEXT_PATH: f32 = 0.6;

/// How a tensor's values are drawn.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Fill {
    /// bf16, all alike.
    Constant(f32),
    /// bf16, normal.
    Normal { std: f32 },
    /// Packed signs, rows of `d_in` bits padded with zeros to whole bytes.
    Signs { d_in: usize },
    /// f16, log-normal, rows of `width`; row i has the median `first · ratio^i`.
    Scales {
        width: usize,
        first: f32,
        ratio: f32,
    },
}

impl Fill {
    /// Scales on the input. They carry the layer's whole size: with random signs and output
    /// scales around one, a layer keeps the variance of its input.
    pub fn input_scales(d_in: usize) -> Fill {
        Fill::Scales {
            width: d_in,
            first: FIRST_PATH / (d_in.max(1) as f32).sqrt(),
            ratio: NEXT_PATH,
        }
    }

    /// Scales on the output, around one.
    pub fn output_scales(d_out: usize) -> Fill {
        Fill::Scales {
            width: d_out,
            first: 1.0,
            ratio: 1.0,
        }
    }
}

/// Produces the bytes of one tensor, block after block.
pub(super) struct Filler {
    rng: ChaCha8Rng,
    fill: Fill,
    /// Elements produced so far.
    done: usize,
}

/// Quantiles of the standard normal distribution, one for each 16-bit number.
pub(super) struct Quantiles {
    unit: Vec<f32>,
    /// The quantiles in bf16, times the last standard deviation asked for.
    scaled: Vec<[u8; 2]>,
    std: f32,
}

impl Quantiles {
    pub fn new() -> Self {
        let n = 1u32 << 16;
        let unit = (0..n).map(|i| normal_quantile((f64::from(i) + 0.5) / f64::from(n)) as f32);
        Quantiles {
            unit: unit.collect(),
            scaled: Vec::new(),
            std: f32::NAN,
        }
    }

    fn scale(&mut self, std: f32) {
        if self.std != std {
            let value = |q: &f32| bf16::from_f32(q * std).to_le_bytes();
            self.scaled = self.unit.iter().map(value).collect();
            self.std = std;
        }
    }
}

impl Filler {
    pub fn new(fill: &Fill, seed: u64, name: &str) -> Self {
        Filler {
            rng: stream(seed, name),
            fill: fill.clone(),
            done: 0,
        }
    }

    /// The whole bytes that one call of [`Filler::next`] may produce at most: whole rows of signs,
    /// whole elements of everything else, near `wanted`.
    pub fn block(&self, wanted: usize) -> usize {
        match self.fill {
            Fill::Signs { d_in } => {
                let row = d_in.div_ceil(8).max(1);
                (wanted / row).max(1) * row
            }
            _ => wanted.max(2) & !1,
        }
    }

    /// Fills `out`, which must be a multiple of what [`Filler::block`] counts in.
    pub fn next(&mut self, out: &mut [u8], quantiles: &mut Quantiles) {
        match self.fill {
            Fill::Constant(value) => {
                let value = bf16::from_f32(value).to_le_bytes();
                out.chunks_exact_mut(2)
                    .for_each(|c| c.copy_from_slice(&value));
            }
            Fill::Normal { std } => {
                quantiles.scale(std);
                self.rng.fill_bytes(out);
                for c in out.chunks_exact_mut(2) {
                    let i = u16::from_le_bytes([c[0], c[1]]);
                    c.copy_from_slice(&quantiles.scaled[usize::from(i)]);
                }
            }
            Fill::Signs { d_in } => {
                self.rng.fill_bytes(out);
                clear_padding(out, d_in);
            }
            Fill::Scales {
                width,
                first,
                ratio,
            } => {
                self.rng.fill_bytes(out);
                for (i, c) in out.chunks_exact_mut(2).enumerate() {
                    let z = quantiles.unit[usize::from(u16::from_le_bytes([c[0], c[1]]))];
                    let row = (self.done + i) / width.max(1);
                    let value = first * ratio.powi(row as i32) * (SCALE_SPREAD * z).exp();
                    c.copy_from_slice(&f16::from_f32(value).to_le_bytes());
                }
            }
        }
        self.done += out.len() / 2;
    }
}

fn clear_padding(rows: &mut [u8], d_in: usize) {
    if !d_in.is_multiple_of(8) {
        let mask = !(!0u8 << (d_in % 8));
        for row in rows.chunks_exact_mut(d_in.div_ceil(8)) {
            row[row.len() - 1] &= mask;
        }
    }
}

/// The random stream of a tensor.
fn stream(seed: u64, name: &str) -> ChaCha8Rng {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    // Two hashes from different starts, so that no two names of a model share a stream.
    for (i, start) in [0xcbf2_9ce4_8422_2325, 0x9e37_79b9_7f4a_7c15]
        .into_iter()
        .enumerate()
    {
        key[8 + 8 * i..][..8].copy_from_slice(&fnv1a(start, name.as_bytes()).to_le_bytes());
    }
    ChaCha8Rng::from_seed(key)
}

fn fnv1a(start: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(start, |hash, &b| {
        (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The inverse of the standard normal distribution function, by Acklam's rational approximation
/// (relative error below 1.2e-9).
fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969_683_028_665_376e1,
        2.209_460_984_245_205e2,
        -2.759_285_104_469_687e2,
        1.383_577_518_672_69e2,
        -3.066_479_806_614_716e1,
        2.506_628_277_459_239,
    ];
    const B: [f64; 6] = [
        -5.447_609_879_822_406e1,
        1.615_858_368_580_409e2,
        -1.556_989_798_598_866e2,
        6.680_131_188_771_972e1,
        -1.328_068_155_288_572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784_894_002_430_293e-3,
        -3.223_964_580_411_365e-1,
        -2.400_758_277_161_838,
        -2.549_732_539_343_734,
        4.374_664_141_464_968,
        2.938_163_982_698_783,
    ];
    const D: [f64; 5] = [
        7.784_695_709_041_462e-3,
        3.224_671_290_700_398e-1,
        2.445_134_137_142_996,
        3.754_408_661_907_416,
        1.0,
    ];
    const TAIL: f64 = 0.02425;
    let poly = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    let tail = |p: f64| {
        let q = (-2.0 * p.ln()).sqrt();
        poly(&C, q) / poly(&D, q)
    };
    if p < TAIL {
        tail(p)
    } else if p > 1.0 - TAIL {
        -tail(1.0 - p)
    } else {
        let q = p - 0.5;
        q * poly(&A, q * q) / poly(&B, q * q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(fill: &Fill, name: &str, n: usize) -> Vec<u8> {
        let mut out = vec![0; n];
        Filler::new(fill, 7, name).next(&mut out, &mut Quantiles::new());
        out
    }

    #[test]
    fn quantiles_are_those_of_the_normal_distribution() {
        for (p, z) in [(0.5, 0.0), (0.975, 1.959_963_985), (0.001, -3.090_232_306)] {
            assert!((normal_quantile(p) - z).abs() < 1e-8, "{p}");
        }
    }

    #[test]
    fn normal_values_have_the_right_spread() {
        let bytes = values(&Fill::Normal { std: 0.02 }, "w", 200_000);
        let x: Vec<f64> = bytes
            .chunks_exact(2)
            .map(|c| bf16::from_le_bytes([c[0], c[1]]).to_f64())
            .collect();
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let var = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
        assert!(mean.abs() < 3e-4, "{mean}");
        assert!((var.sqrt() / 0.02 - 1.0).abs() < 0.02, "{}", var.sqrt());
    }

    #[test]
    fn signs_are_balanced_and_padded_with_zeros() {
        let bytes = values(&Fill::Signs { d_in: 11 }, "b", 2 * 5000);
        let ones: u32 = bytes.iter().map(|b| b.count_ones()).sum();
        assert!((f64::from(ones) / 55_000.0 - 0.5).abs() < 0.02, "{ones}");
        assert!(bytes.chunks(2).all(|row| row[1] & 0xf8 == 0));
    }

    #[test]
    fn streams_differ_by_name_and_not_by_block() {
        let fill = Fill::output_scales(64);
        assert_ne!(values(&fill, "a", 256), values(&fill, "b", 256));
        let (mut filler, mut q) = (Filler::new(&fill, 7, "a"), Quantiles::new());
        let mut out = vec![0; 256];
        let (one, two) = out.split_at_mut(filler.block(128));
        filler.next(one, &mut q);
        filler.next(two, &mut q);
        assert_eq!(out, values(&fill, "a", 256));
    }
}
