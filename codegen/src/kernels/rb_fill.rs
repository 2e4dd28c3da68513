//! How the tables of [`super::rb_tables`] are made from their inputs.

use super::math;
use super::rb_tables::{BIAS, Code, GROUP, TILE_TABLES};
use crate::kir::{Builder, Elem, Ty, UnOp, Val};
use rabitc_ir::layout::TILE_INPUTS;

/// Entries of a table.
const ENTRIES: usize = 1 << GROUP;

/// What is filled.
pub struct Fill {
    /// What the bytes of an entry are.
    pub code: Code,
    /// Bytes of an entry.
    pub planes: usize,
    /// Bytes from the tables of a tile to those of the next.
    pub tile_bytes: usize,
}

impl Fill {
    /// Makes the tables of `n` inputs at `u`, a multiple of a tile's, at the first address of
    /// `to`, and stores their scale, if there is one, at the second. Zeros follow the inputs up to
    /// the next multiple of the vector's bytes.
    pub fn tables(&self, b: &mut Builder, u: Val, to: [Val; 2], n: i64) {
        let [tables, scale] = to;
        let factor = match self.code {
            Code::Integer(largest) => Some(store_scale(b, u, scale, n, largest)),
            Code::Float => None,
        };
        let width = b.width();
        // Octets of one vector.
        let together = width / ENTRIES;
        b.for_const(n, TILE_INPUTS as i64, |b, column| {
            let to = b.at(tables, column, (self.tile_bytes / TILE_INPUTS) as i64);
            let from = b.at(u, column, 4);
            for vector in 0..TILE_TABLES / together {
                let (octet, half) = (vector / 2 * together, vector % 2);
                let group = |i: usize| (octet + i) * 2 + half;
                let sums = sums(b, from, together, &group, factor);
                for (plane, bytes) in self.bytes(b, sums).into_iter().enumerate() {
                    b.store(to, ((vector * self.planes + plane) * width) as i32, bytes);
                }
            }
        });
    }

    /// Four vectors of sums as the planes of their bytes.
    fn bytes(&self, b: &mut Builder, sums: [Val; 4]) -> Vec<Val> {
        let words = match self.code {
            Code::Integer(_) => sums.map(|s| b.to_int(s)),
            Code::Float => sums.map(|s| b.bitcast(s, Elem::I32)),
        };
        let mut planes = match self.planes {
            1 => {
                let shorts = join(b, words, |b, x, y| b.narrow(x, y));
                vec![b.narrow(shorts[0], shorts[1])]
            }
            2 => {
                let shorts = join(b, words, |b, x, y| b.narrow(x, y));
                split(b, shorts)
            }
            _ => {
                let low = words.map(|w| low_bits(b, w, 16));
                let low = join(b, low, |b, x, y| b.narrow(x, y));
                let high = words.map(|w| b.sar(w, 16));
                let high = join(b, high, |b, x, y| b.narrow(x, y));
                let high = match self.planes {
                    3 => vec![b.narrow(high[0], high[1])],
                    _ => split(b, high),
                };
                [split(b, low), high].concat()
            }
        };
        if let (Code::Integer(_), Some(top)) = (self.code, planes.last_mut()) {
            let bias = b.bytes(Elem::I8, &[BIAS as u8; 16]);
            *top = b.xor(*top, bias);
        }
        planes
    }
}

/// Joins the first two and the last two.
fn join(
    b: &mut Builder,
    four: [Val; 4],
    mut pair: impl FnMut(&mut Builder, Val, Val) -> Val,
) -> [Val; 2] {
    let [w, x, y, z] = four;
    [pair(b, w, x), pair(b, y, z)]
}

/// The lower `bits` bits of each lane, as a signed number, so that narrowing keeps them.
fn low_bits(b: &mut Builder, v: Val, bits: u8) -> Val {
    let up = b.shl(v, bits);
    b.sar(up, bits)
}

/// The low and the high bytes of two vectors of 16-bit lanes.
fn split(b: &mut Builder, shorts: [Val; 2]) -> Vec<Val> {
    let low = shorts.map(|s| low_bits(b, s, 8));
    let high = shorts.map(|s| b.sar(s, 8));
    vec![b.narrow(low[0], low[1]), b.narrow(high[0], high[1])]
}

/// The sums of `together` tables, whose groups `group` numbers, in entry order over four vectors;
/// each input times `factor`.
fn sums(
    b: &mut Builder,
    u: Val,
    together: usize,
    group: &dyn Fn(usize) -> usize,
    factor: Option<Val>,
) -> [Val; 4] {
    let mut all = Vec::with_capacity(4);
    for i in 0..together {
        let inputs = [0, 1, 2, 3].map(|j| {
            let x = b.load(Ty::F32, u, ((group(i) * GROUP + j) * 4) as i32);
            match factor {
                Some(f) => b.mul(x, f),
                None => x,
            }
        });
        all.extend(table_sums(b, inputs));
    }
    [0, 1, 2, 3].map(|i| all[i])
}

/// The 16 sums of a table in entry order, as one to four vectors: bits of the entry's number that
/// differ within a vector are factors ±1 of its lanes, the others choose between sum and
/// difference.
fn table_sums(b: &mut Builder, inputs: [Val; GROUP]) -> Vec<Val> {
    let lanes = b.lanes();
    let lane_bits = lanes.trailing_zeros() as usize;
    let mut vectors: Vec<Val> = Vec::new();
    for (bit, input) in inputs.into_iter().enumerate() {
        let x = b.splat(input);
        if bit >= lane_bits {
            let minus: Vec<_> = vectors.iter().map(|v| b.sub(*v, x)).collect();
            let plus: Vec<_> = vectors.iter().map(|v| b.add(*v, x)).collect();
            vectors = [minus, plus].concat();
            continue;
        }
        let sign = |lane: usize| if lane >> bit & 1 == 1 { 1.0f32 } else { -1.0 };
        let signs: Vec<u8> = (0..lanes).flat_map(|l| sign(l).to_le_bytes()).collect();
        let signs = b.bytes(Elem::F32, &signs);
        vectors = vec![match vectors.first() {
            Some(v) => b.fma(x, signs, *v),
            None => b.mul(x, signs),
        }];
    }
    vectors
}

/// Stores the scale of `n` inputs, so that the largest |sum| becomes `largest`, and gives its
/// reciprocal.
fn store_scale(b: &mut Builder, u: Val, scale: Val, n: i64, largest: f32) -> Val {
    let sum = largest_sum(b, u, n);
    let share = b.float_of(Ty::F32, 1.0 / largest);
    let s = b.mul(sum, share);
    // A block of zeros has no scale of its own: any finite factor gives tables of zeros.
    let tiny = b.float_of(Ty::F32, f32::MIN_POSITIVE);
    let s = b.max(s, tiny);
    b.store(scale, 0, s);
    let one = b.float_of(Ty::F32, 1.0);
    b.div(one, s)
}

/// max over groups of |u₀| + |u₁| + |u₂| + |u₃|.
fn largest_sum(b: &mut Builder, u: Val, n: i64) -> Val {
    let vector = b.vec(Elem::F32);
    let zero = b.float(0.0);
    let largest = b.var(zero);
    let step = b.width() as i64;
    // Four vectors at a time, transposed within their 16-byte groups so that a lane is a group.
    b.for_const((n + step - 1) / step * step, step, |b, column| {
        let at = b.at(u, column, 4);
        let rows = [0, 1, 2, 3].map(|i| {
            let v = b.load(vector, at, i * step as i32);
            b.un(UnOp::Abs, v)
        });
        let pair = |b: &mut Builder, x: Val, y: Val| {
            let (low, high) = (b.interleave(x, y, false), b.interleave(x, y, true));
            b.add(low, high)
        };
        let halves = join(b, rows, pair).map(|half| b.bitcast(half, Elem::I64));
        let [low, high] = [false, true].map(|high| {
            let mixed = b.interleave(halves[0], halves[1], high);
            b.bitcast(mixed, Elem::F32)
        });
        let sums = b.add(low, high);
        let so_far = b.get(largest);
        let now = math::max_abs(b, so_far, sums);
        b.set(largest, now);
    });
    let largest = b.get(largest);
    b.max_lane(largest)
}
