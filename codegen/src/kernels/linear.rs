//! The dense linear layer: `row_tile` rows × `token_tile` tokens of dot products at a time.

use super::math::min_int;
use super::{Float, Spec, Vectors};
use crate::kir::{Builder, Cache, Elem, Kernel, MemType, Ty, Val, Var};

/// Bytes of a cache line.
const LINE: i64 = 64;
/// The furthest that weights are fetched ahead.
const FAR: i64 = 16 << 10;
/// How far they are fetched ahead within a row.
const NEAR: i64 = 2048;

/// Form of a dense weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Floats.
    Float(Float),
    /// int8 with one f32 scale a row.
    Int8,
}

impl Weight {
    fn name(self) -> &'static str {
        match self {
            Weight::Float(f) => f.name(),
            Weight::Int8 => "i8",
        }
    }
    fn bytes(self) -> i64 {
        match self {
            Weight::Float(f) => f.bytes(),
            Weight::Int8 => 1,
        }
    }
    fn mem(self) -> MemType {
        match self {
            Weight::Float(f) => f.mem(),
            Weight::Int8 => MemType::I8,
        }
    }
}

/// `out = x Wᵀ` (times a scale a row for int8); items: ⌈d_out / row_tile⌉ blocks of rows.
pub struct Linear {
    /// Inputs.
    pub d_in: usize,
    /// Outputs.
    pub d_out: usize,
    /// Elements a row of x.
    pub x_stride: usize,
    /// Form of the weight.
    pub weight: Weight,
    /// Rows computed together.
    pub row_tile: usize,
    /// Tokens computed together.
    pub token_tile: usize,
}

/// Addresses the kernel works on.
struct Bases {
    x: Val,
    weight: Val,
    scale: Option<Val>,
    out: Val,
}

impl Spec for Linear {
    fn name(&self) -> String {
        format!(
            "linear_{}_{}x{}_x{}_r{}t{}",
            self.weight.name(),
            self.d_out,
            self.d_in,
            self.x_stride,
            self.row_tile,
            self.token_tile
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let weight = b.input("weight");
        let scale = match self.weight {
            Weight::Int8 => Some(b.input("scale")),
            _ => None,
        };
        let bases = Bases {
            x,
            weight,
            scale,
            out: b.output("out"),
        };
        let rows = b.scalar("rows");
        let (begin, end) = b.range();
        let whole = b.int((self.d_out / self.row_tile) as i64);
        let stop = min_int(&mut b, end, whole);
        b.for_range(begin, stop, 1, |b, item| {
            let first = b.mul_imm(item, self.row_tile as i64);
            self.all_tokens(b, &bases, first, self.row_tile, rows);
        });
        if !self.d_out.is_multiple_of(self.row_tile) {
            self.last_rows(&mut b, &bases, whole, end, rows);
        }
        b.finish()
    }
}

impl Linear {
    /// The rows past the last whole block, one by one, if this call's range holds their item.
    fn last_rows(&self, b: &mut Builder, bases: &Bases, whole: Val, end: Val, rows: Val) {
        let here = b.cmp(crate::kir::CmpOp::Lt, whole, end);
        b.if_then(here, |b| {
            let first = b.int((self.d_out / self.row_tile * self.row_tile) as i64);
            let last = b.int(self.d_out as i64);
            b.for_range(first, last, 1, |b, row| {
                self.all_tokens(b, bases, row, 1, rows)
            });
        });
    }

    fn all_tokens(&self, b: &mut Builder, bases: &Bases, first: Val, row_tile: usize, rows: Val) {
        let zero = b.int(0);
        if self.token_tile == 1 {
            return b.for_range(zero, rows, 1, |b, token| {
                self.tile(b, bases, first, token, row_tile, 1);
            });
        }
        let tile = b.int(self.token_tile as i64);
        let whole = b.div(rows, tile);
        let whole = b.mul(whole, tile);
        b.for_range(zero, whole, self.token_tile as i64, |b, token| {
            self.tile(b, bases, first, token, row_tile, self.token_tile);
        });
        b.for_range(whole, rows, 1, |b, token| {
            self.tile(b, bases, first, token, row_tile, 1);
        });
    }

    /// `rows` × `tokens` dot products from row `first` and token `token` on.
    fn tile(&self, b: &mut Builder, o: &Bases, first: Val, token: Val, rows: usize, tokens: usize) {
        let (d_in, lanes) = (self.d_in as i64, b.lanes() as i64);
        let weight = b.at(o.weight, first, d_in * self.weight.bytes());
        let x = b.at(o.x, token, self.x_stride as i64 * 4);
        let whole = d_in / lanes * lanes;
        let vector = b.vec(Elem::F32);
        let sums = self.sums(b, vector, rows * tokens);
        // A cache line of each row at a time, so that there is one prefetch for it.
        let line = (LINE / self.weight.bytes()).max(lanes);
        let lines = d_in / line * line;
        if lines > 0 {
            b.for_const(lines, line, |b, column| {
                self.prefetch(b, weight, column, rows);
                for part in 0..line / lanes {
                    let column = b.add_imm(column, part * lanes);
                    self.step(b, [weight, x, column], vector, &sums, rows);
                }
            });
        }
        if lines < whole {
            let (start, end) = (b.int(lines), b.int(whole));
            b.for_range(start, end, lanes, |b, column| {
                self.step(b, [weight, x, column], vector, &sums, rows);
            });
        }
        let totals: Vec<Var> = sums
            .iter()
            .map(|s| {
                let s = b.get(*s);
                let s = b.sum(s);
                b.var(s)
            })
            .collect();
        if whole < d_in {
            let (start, end) = (b.int(whole), b.int(d_in));
            b.for_range(start, end, 1, |b, column| {
                self.step(b, [weight, x, column], Ty::F32, &totals, rows);
            });
        }
        let out = super::shape::address(b, o.out, token, self.d_out as i64, first);
        let scale = o.scale.map(|s| b.at(s, first, 4));
        for (i, total) in totals.into_iter().enumerate() {
            let (t, r) = (i / rows, i % rows);
            let mut y = b.get(total);
            if let Some(scale) = scale {
                let s = b.load(Ty::F32, scale, (r * 4) as i32);
                y = b.mul(y, s);
            }
            let at = b.add_imm(out, (t * self.d_out * 4) as i64);
            b.store(at, (r * 4) as i32, y);
        }
    }

    /// Asks for what is read next of the weight: the same place of the next rows, or, where these
    /// are far away, more of the same ones.
    fn prefetch(&self, b: &mut Builder, weight: Val, column: Val, rows: usize) {
        let row_bytes = self.d_in as i64 * self.weight.bytes();
        let next = rows as i64 * row_bytes;
        let distance = if next <= FAR { next } else { NEAR };
        let at = b.at(weight, column, self.weight.bytes());
        for row in 0..rows as i64 {
            let at = b.add_imm(at, row * row_bytes);
            b.prefetch(Cache::L2, at, distance as i32);
        }
    }

    fn sums(&self, b: &mut Builder, ty: Ty, n: usize) -> Vec<Var> {
        let zero = b.float_of(ty, 0.0);
        (0..n).map(|_| b.var(zero)).collect()
    }

    /// Adds the products at `[weight, x, column]`; sums are ordered `[token][row]`.
    fn step(&self, b: &mut Builder, at: [Val; 3], ty: Ty, sums: &[Var], rows: usize) {
        let [w, x, column] = at;
        let w = b.at(w, column, self.weight.bytes());
        let x = b.at(x, column, 4);
        let row_bytes = self.d_in as i64 * self.weight.bytes();
        let weights: Vec<_> = (0..rows as i64)
            .map(|r| {
                let w = b.add_imm(w, r * row_bytes);
                b.load_as(ty, self.weight.mem(), w, 0)
            })
            .collect();
        for (t, sums) in sums.chunks(rows).enumerate() {
            let x = b.add_imm(x, (t * self.x_stride * 4) as i64);
            let x = b.load(ty, x, 0);
            for (sum, w) in sums.iter().zip(&weights) {
                let s = b.get(*sum);
                let s = b.fma(x, *w, s);
                b.set(*sum, s);
            }
        }
    }
}
