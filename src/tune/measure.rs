//! Times of the candidates of one shape.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rabitc_passes::tiles::LayerShape;
use rabitc_runtime::aligned::AlignedBytes;
use rabitc_runtime::pool::Pool;
use rand::{RngCore, SeedableRng};

use super::host::tables;
use super::layer::{BLOCK_TOKENS, Layer, same};
use super::native::{Generator, Input, Prepare, Product, Weights};
use super::shapes::layout;

/// Row tiles that are tried.
pub const ROW_TILES: [usize; 5] = [1, 2, 4, 8, 16];
/// Every candidate is measured at least so often, however small the budget.
const LEAST_ROUNDS: usize = 4;
/// A measurement of decoding reads at least so many bytes, or goes on for so many turns.
const SAMPLE_BYTES: usize = 32 << 20;
const SAMPLE_TURNS: usize = 64;
/// Decoding gets so many times the time that prompts get.
const DECODE_SHARE: u32 = 3;
/// A layer with more bytes of signs is not believed.
const MOST_BYTES: usize = 8 << 30;
/// Random bytes that are repeated all over the weights.
const PATTERN: usize = 1 << 20;

/// What is tried: whatever distinguishes the kernels of one layer from each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// Tiles in a row block.
    pub row_tiles: usize,
}

/// The times of one candidate, in nanoseconds a product, in the order of the rounds.
#[derive(Clone, Debug)]
pub struct Samples {
    /// The candidate.
    pub variant: Variant,
    /// Bytes of its signs.
    pub bytes: usize,
    /// Of one token.
    pub decode: Vec<f64>,
    /// Of a block of tokens.
    pub prompt: Vec<f64>,
}

/// What measurements are made with.
pub struct Bench<'a> {
    generator: Generator<'a>,
    pool: &'a Pool,
    /// Random signs: layer after layer is read from here, as if they were a model's.
    weights: AlignedBytes,
}

/// A candidate that is ready to run.
struct Ready {
    variant: Variant,
    bytes: usize,
    g: Vec<u16>,
    decode: Product,
    prompt: Product,
}

impl<'a> Bench<'a> {
    /// Fills `bytes` of memory with signs.
    ///
    /// # Errors
    /// Memory that the system does not grant.
    pub fn new(generator: Generator<'a>, pool: &'a Pool, bytes: usize) -> Result<Bench<'a>> {
        let mut weights = AlignedBytes::zeroed(bytes, "weights to measure with")?;
        let mut pattern = vec![0; PATTERN.min(bytes)];
        rand_chacha::ChaCha8Rng::seed_from_u64(1).fill_bytes(&mut pattern);
        for part in weights.as_mut_slice().chunks_mut(PATTERN) {
            part.copy_from_slice(&pattern[..part.len()]);
        }
        Ok(Bench {
            generator,
            pool,
            weights,
        })
    }

    /// Measures candidates in turns, round after round, until `budget` is spent, compilation
    /// included. `tick` is called once a round.
    ///
    /// # Errors
    /// A candidate that cannot be compiled or gives wrong results.
    pub fn measure(
        &self,
        shape: &LayerShape,
        variants: &[Variant],
        budget: Duration,
        tick: &mut dyn FnMut(),
    ) -> Result<Vec<Samples>> {
        let start = Instant::now();
        let (candidates, input) = self.prepare(shape, variants, tick)?;
        let width: usize = shape.segments.iter().sum();
        let mut out = vec![0.0; width * BLOCK_TOKENS];
        let mut samples: Vec<Samples> = candidates.iter().map(Ready::samples).collect();
        let (mut spent, mut turn) = ([Duration::ZERO; 2], 0);
        for round in 0.. {
            if round >= LEAST_ROUNDS && start.elapsed() >= budget {
                break;
            }
            let prompts = round < LEAST_ROUNDS || spent[1] * DECODE_SHARE < spent[0];
            for n in 0..candidates.len() {
                // Another one begins every time.
                let n = (n + round) % candidates.len();
                let (ready, samples) = (&candidates[n], &mut samples[n]);
                let turns = (SAMPLE_BYTES / ready.bytes).clamp(1, SAMPLE_TURNS);
                let time = self.time(ready, false, &input, &mut out[..width], [turn, turns])?;
                samples.decode.push(time.as_nanos() as f64 / turns as f64);
                (spent[0], turn) = (spent[0] + time, turn + turns);
                if prompts {
                    let time = self.time(ready, true, &input, &mut out, [turn, 1])?;
                    samples.prompt.push(time.as_nanos() as f64);
                    (spent[1], turn) = (spent[1] + time, turn + 1);
                }
            }
            tick();
        }
        Ok(samples)
    }

    /// Time of some turns of a candidate's product.
    fn time(
        &self,
        ready: &Ready,
        prompt: bool,
        input: &Input,
        out: &mut [f32],
        [first, turns]: [usize; 2],
    ) -> Result<Duration> {
        let weights = Weights {
            signs: self.weights.as_slice(),
            stride: ready.bytes,
            g: &ready.g,
        };
        let product = if prompt { &ready.prompt } else { &ready.decode };
        let start = Instant::now();
        product.run(self.pool, input, weights, out, first..first + turns)?;
        Ok(start.elapsed())
    }

    /// Compiles every candidate and checks what it computes.
    fn prepare(
        &self,
        shape: &LayerShape,
        variants: &[Variant],
        tick: &mut dyn FnMut(),
    ) -> Result<(Vec<Ready>, Input)> {
        let activations = shape.activations.parse().map_err(|e: String| anyhow!(e))?;
        let tables = tables(activations)?;
        let layer = Layer::random(shape, 2);
        let prepare = Prepare::compile(&layout(shape, 1), tables, self.generator)?;
        let input = prepare.run(self.pool, &layer.x, &layer.h)?;
        let code = tables.code(self.generator.backend.vectors(self.generator.level));
        let (mut firsts, mut candidates) = ([None, None], Vec::new());
        for &variant in variants {
            let context = || format!("{} row tiles", variant.row_tiles);
            let (ready, signs) = self.ready(&layer, shape, variant).with_context(context)?;
            let weights = Weights {
                signs: &signs,
                stride: 0,
                g: &ready.g,
            };
            for (product, first) in [&ready.decode, &ready.prompt].into_iter().zip(&mut firsts) {
                let out = product.result(self.pool, &input, weights)?;
                layer.check(&out, code).with_context(context)?;
                let first: &Vec<f32> = first.get_or_insert_with(|| out.clone());
                same(&out, first, shape).with_context(context)?;
                tick();
            }
            candidates.push(ready);
        }
        Ok((candidates, input))
    }

    /// A candidate's kernels, and the layer in its layout.
    fn ready(
        &self,
        layer: &Layer,
        shape: &LayerShape,
        variant: Variant,
    ) -> Result<(Ready, Vec<u8>)> {
        let layout = layout(shape, variant.row_tiles);
        let tables = tables(shape.activations.parse().map_err(|e: String| anyhow!(e))?)?;
        let compile = |tokens| Product::compile(&layout, tables, tokens, self.generator);
        let (decode, prompt) = (compile(1)?, compile(BLOCK_TOKENS)?);
        let (signs, g) = layer.pack(&layout);
        let ready = Ready {
            variant,
            bytes: signs.len(),
            g,
            decode,
            prompt,
        };
        Ok((ready, signs))
    }
}

impl Ready {
    fn samples(&self) -> Samples {
        Samples {
            variant: self.variant,
            bytes: self.bytes,
            decode: Vec::new(),
            prompt: Vec::new(),
        }
    }
}

/// Bytes of signs of the largest candidate of a shape.
///
/// # Errors
/// A layer of nothing, or one that no machine decodes with.
pub fn most_bytes(shape: &LayerShape, variants: &[Variant]) -> Result<usize> {
    let mut most = 0;
    for variant in variants {
        let layout = layout(shape, variant.row_tiles);
        layout.check().map_err(|e| anyhow!("a layer: {e}"))?;
        most = most.max(layout.sign_bytes().unwrap_or(usize::MAX));
    }
    match most <= MOST_BYTES {
        true => Ok(most),
        false => bail!("a layer of {most} bytes: at most {MOST_BYTES} are measured"),
    }
}

/// The candidates of a shape: what is worth trying of [`ROW_TILES`], and `more`.
pub fn variants(shape: &LayerShape, more: usize) -> Vec<Variant> {
    let rows = shape.segments.iter().copied().max().unwrap_or(0);
    let fits =
        |tiles: &usize| *tiles == 1 || *tiles == more || layout(shape, *tiles).block_rows() <= rows;
    let mut tiles: Vec<_> = ROW_TILES.into_iter().chain([more]).filter(fits).collect();
    tiles.sort_unstable();
    tiles.dedup();
    tiles
        .into_iter()
        .map(|row_tiles| Variant { row_tiles })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(segments: &[usize]) -> LayerShape {
        LayerShape {
            d_in: 64,
            segments: segments.to_vec(),
            paths: 2,
            activations: "int8",
        }
    }

    #[test]
    fn blocks_are_not_larger_than_layers() {
        let of = |segments: &[usize], more| {
            let variants = variants(&shape(segments), more).into_iter();
            variants.map(|v| v.row_tiles).collect::<Vec<_>>()
        };
        assert_eq!(of(&[5], 1), [1]);
        assert_eq!(of(&[5, 40], 1), [1, 2]);
        assert_eq!(of(&[5, 40], 3), [1, 2, 3]);
        assert_eq!(of(&[4096], 8), [1, 2, 4, 8, 16]);
    }

    #[test]
    fn sizes_are_checked_before_anything_is_allocated() {
        let of = |segments: &[usize]| most_bytes(&shape(segments), &[Variant { row_tiles: 2 }]);
        assert_eq!(of(&[33]).unwrap(), 2 * 2 * 2 * 2 * 64);
        for bad in [vec![], vec![0], vec![1 << 40], vec![usize::MAX]] {
            assert!(of(&bad).is_err(), "{bad:?}");
        }
    }
}
