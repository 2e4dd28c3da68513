//! A layer of random weights and inputs, and what its product must be.

use anyhow::{Result, bail};
use half::f16;
use rabitc_codegen::kernels::rb_tables::{BLOCK_INPUTS, Code, GROUP};
use rabitc_ir::layout::SignLayout;
use rabitc_passes::tiles::LayerShape;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens of a block of a prompt, as many as a step of the runtime reads at most.
pub const BLOCK_TOKENS: usize = 32;
/// Unit roundoff of f32.
const U: f64 = 1.0 / (1u64 << 24) as f64;

/// A random layer, in the plain form that every layout is packed from.
pub struct Layer {
    shape: LayerShape,
    /// `[BLOCK_TOKENS, d_in]`
    pub x: Vec<f32>,
    /// `[segments · paths, d_in]`
    pub h: Vec<u16>,
    /// A segment's `[paths, d_out, ⌈d_in/8⌉]`.
    signs: Vec<Vec<u8>>,
    /// A segment's `[paths, d_out]`, each a number that f16 holds.
    g: Vec<Vec<f32>>,
}

impl Layer {
    /// The layer of a seed.
    pub fn random(shape: &LayerShape, seed: u64) -> Layer {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let x = (0..BLOCK_TOKENS * shape.d_in).map(|_| random.random_range(-1.0..1.0));
        let x = x.collect();
        let sets = shape.segments.len() * shape.paths;
        let h = (0..sets * shape.d_in).map(|_| scale(&mut random).to_bits());
        let h = h.collect();
        let octets = shape.d_in.div_ceil(8);
        let signs = shape.segments.iter().map(|d_out| {
            let mut bytes = vec![0; shape.paths * d_out * octets];
            random.fill_bytes(&mut bytes);
            bytes
        });
        let signs = signs.collect();
        let g = shape.segments.iter().map(|d_out| {
            let values = (0..shape.paths * d_out).map(|_| scale(&mut random).to_f32());
            values.collect()
        });
        Layer {
            g: g.collect(),
            shape: shape.clone(),
            x,
            h,
            signs,
        }
    }

    /// Signs and output scales in a layout.
    pub fn pack(&self, layout: &SignLayout) -> (Vec<u8>, Vec<u16>) {
        let signs: Vec<_> = self.signs.iter().map(Vec::as_slice).collect();
        let g: Vec<_> = self.g.iter().map(Vec::as_slice).collect();
        let g = layout.pack_scales(&g).into_iter();
        let g = g.map(|g| f16::from_f32(g).to_bits()).collect();
        (layout.pack_signs(&signs), g)
    }

    /// Compares a product's results `[tokens, d_out]` with what some of them must be, computed
    /// plainly and in f64, within the error of tables of that code and of sums in f32.
    ///
    /// # Errors
    /// A result that is further away, by its place.
    pub fn check(&self, out: &[f32], code: Code) -> Result<()> {
        let width: usize = self.shape.segments.iter().sum();
        let tokens = out.len() / width;
        for token in [0, tokens - 1] {
            let mut first = 0;
            for (segment, &d_out) in self.shape.segments.iter().enumerate() {
                for row in [0, d_out / 3, d_out / 2, d_out - 1] {
                    let (y, bound) = self.expected(token, segment, row, code);
                    let found = f64::from(out[token * width + first + row]);
                    // Written so that a result that is no number is refused.
                    let near = (found - y).abs() <= bound;
                    if !near {
                        bail!(
                            "token {token}, segment {segment}, row {row}: {found}, but {y} ± \
                             {bound:.1e} is right"
                        );
                    }
                }
                first += d_out;
            }
        }
        Ok(())
    }

    /// One element of the product, and how far from it a kernel may be that reads tables of a code.
    fn expected(&self, token: usize, segment: usize, row: usize, code: Code) -> (f64, f64) {
        self.element(token, segment, row, &|u| error(u, code))
    }

    /// One element of the product, and how far from it a kernel may be, where `error` says how far
    /// off Σ ±u of a path may be.
    pub fn element(
        &self,
        token: usize,
        segment: usize,
        row: usize,
        error: &dyn Fn(&[f64]) -> f64,
    ) -> (f64, f64) {
        let (d_in, d_out) = (self.shape.d_in, self.shape.segments[segment]);
        let x = &self.x[token * d_in..][..d_in];
        let octets = d_in.div_ceil(8);
        let (mut y, mut bound) = (0.0, 1e-30);
        for path in 0..self.shape.paths {
            let set = segment * self.shape.paths + path;
            let h = &self.h[set * d_in..][..d_in];
            let u = x
                .iter()
                .zip(h)
                .map(|(x, h)| x * f16::from_bits(*h).to_f32());
            let u: Vec<f64> = u.map(f64::from).collect();
            let index = path * d_out + row;
            let bits = &self.signs[segment][index * octets..][..octets];
            let signed = u.iter().enumerate();
            let sum: f64 = signed
                .map(|(j, u)| {
                    if bits[j / 8] >> (j % 8) & 1 == 1 {
                        *u
                    } else {
                        -u
                    }
                })
                .sum();
            let g = f64::from(self.g[segment][index]);
            y += g * sum;
            bound += g * error(&u);
        }
        (y, bound + 2.0 * U * f64::from(y as f32).abs())
    }
}

/// How far Σ ±u may be off: half a scale for every entry of an integer table, and the roundings
/// of a sum in f32.
fn error(u: &[f64], code: Code) -> f64 {
    let total: f64 = u.iter().map(|u| u.abs()).sum();
    let roundings = (u.len() as f64 + 64.0) * U * total;
    let Code::Integer(most) = code else {
        return roundings;
    };
    let blocks = u.chunks(BLOCK_INPUTS).map(|block| {
        let groups = block.chunks(GROUP);
        let count = groups.len() as f64;
        let sums = groups.map(|group| group.iter().map(|u| u.abs()).sum());
        count * 0.5 * sums.fold(0.0, f64::max) / f64::from(most)
    });
    // The scale is rounded too.
    roundings + 1.001 * blocks.sum::<f64>()
}

/// A scale between 1/2 and 2.
fn scale(random: &mut ChaCha8Rng) -> f16 {
    f16::from_f32(random.random_range(0.5..2.0))
}

/// Compares the results of two layouts of one layer: they differ in the order of additions at
/// most. A wrong sign moves a result by about 1.
///
/// # Errors
/// A result that differs by more, by its place.
pub fn same(found: &[f32], expected: &[f32], shape: &LayerShape) -> Result<()> {
    let squares: f64 = expected.iter().map(|y| f64::from(*y).powi(2)).sum();
    // Partial sums are hardly larger than four of these.
    let deviation = (squares / expected.len().max(1) as f64).sqrt();
    let additions = (shape.d_in / GROUP * shape.paths) as f64 + 64.0;
    let bound = additions * U * 4.0 * deviation + 1e-30;
    let mut pairs = found.iter().zip(expected).enumerate();
    let differs = pairs.find(|(_, (a, b))| {
        let near = f64::from((*a - *b).abs()) <= bound;
        !near
    });
    match differs {
        Some((n, (a, b))) => bail!("element {n} is {a}, with other tiles it is {b}"),
        None if found.len() != expected.len() => bail!("{} elements", found.len()),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape() -> LayerShape {
        LayerShape {
            d_in: 300,
            segments: vec![5, 40],
            paths: 2,
            activations: "f32",
        }
    }

    /// The product, plainly.
    fn product(layer: &Layer) -> Vec<f32> {
        let tokens = 0..BLOCK_TOKENS;
        let rows = |token| {
            let segments = layer.shape.segments.iter().enumerate();
            let rows = segments.flat_map(|(s, d_out)| (0..*d_out).map(move |r| (s, r)));
            let y = rows.map(move |(s, r)| layer.expected(token, s, r, Code::Float).0 as f32);
            y.collect::<Vec<_>>()
        };
        tokens.flat_map(rows).collect()
    }

    #[test]
    fn the_right_product_passes_and_wrong_ones_do_not() {
        let layer = Layer::random(&shape(), 1);
        let mut out = product(&layer);
        layer.check(&out, Code::Float).unwrap();
        same(&out, &out, &shape()).unwrap();
        let right = out.clone();
        for (at, change) in [
            (0, 0.1),
            (44, -0.1),
            (31 * 45, f32::NAN),
            (31 * 45 + 5, 0.1),
        ] {
            out[at] += change;
            let message = layer.check(&out, Code::Float).unwrap_err().to_string();
            assert!(message.contains(&format!("token {}", at / 45)), "{message}");
            assert!(same(&out, &right, &shape()).is_err());
            out[at] = right[at];
        }
    }

    #[test]
    fn tables_with_fewer_bits_may_be_further_off() {
        let u = [1.0; 300];
        let of = |code| error(&u, code);
        // 64 entries of 4 ± 4/254 in the first block, 11 in the second.
        let int8 = of(Code::Integer(127.0));
        assert!((int8 - 75.0 * 4.0 / 254.0).abs() < 0.01, "{int8}");
        assert!(of(Code::Integer(32767.0)) < int8 / 50.0);
        assert!(of(Code::Float) < of(Code::Integer(8_388_352.0)));
    }
}
