//! Turns the input of a residual-binary product into the tables of [`super::rb_tables`].

use super::elementwise::activate;
use super::rb_fill::Fill;
use super::rb_tables::{BLOCK_INPUTS, TableShape};
use super::rms_norm::{inverse_rms, scaled};
use super::shape::split_item;
use super::{Float, Spec, Vectors};
use crate::kir::{Builder, CmpOp, Kernel, Ty, Val};
use rabitc_ir::layout::TILE_INPUTS;
use rabitc_ir::ops::gate::Activation;

/// What is done to x first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Before {
    /// Nothing.
    Nothing,
    /// RMSNorm with a weight operand.
    RmsNorm {
        /// Form of the weight.
        weight: Float,
        /// Added to the mean square.
        eps: f32,
        /// Multiply by 1 + w.
        unit_offset: bool,
    },
    /// act(x) ⊙ up.
    Gate {
        /// The activation.
        act: Activation,
        /// Elements a row of `up`.
        up_stride: usize,
    },
}

/// Makes the tables; items: tokens × blocks of 256 inputs.
pub struct RbPrepare {
    /// Sizes.
    pub shape: TableShape,
    /// Elements a row of x.
    pub x_stride: usize,
    /// Form of h.
    pub h: Float,
    /// What is done to x first.
    pub before: Before,
}

/// Addresses the kernel works on.
struct Bases {
    x: Val,
    second: Option<Val>,
    h: Val,
    tables: Val,
    scales: Val,
    fill: Fill,
    /// 256 values of prologue(x).
    input: Val,
    /// 256 values of u.
    scaled: Val,
}

impl Spec for RbPrepare {
    fn name(&self) -> String {
        let s = &self.shape;
        let before = match self.before {
            Before::Nothing => String::new(),
            Before::RmsNorm {
                weight,
                eps,
                unit_offset,
            } => format!(
                "_norm_{}_e{:08x}{}",
                weight.name(),
                eps.to_bits(),
                if unit_offset { "_unit" } else { "" }
            ),
            Before::Gate { act, up_stride } => format!("_gate_{}_u{up_stride}", act.name()),
        };
        let (tables, h, x) = (s.tables.name(), self.h.name(), self.x_stride);
        format!(
            "rb_prepare_{tables}_{h}_{}_s{}_x{x}{before}",
            s.d_in, s.sets
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let second = match self.before {
            Before::Nothing => None,
            Before::RmsNorm { .. } => Some(b.input("norm")),
            Before::Gate { .. } => Some(b.input("up")),
        };
        let bases = Bases {
            x,
            second,
            h: b.input("h"),
            tables: b.output("tables"),
            scales: b.output("scales"),
            fill: Fill {
                code: self.shape.tables.code(vectors),
                planes: self.shape.tables.planes(vectors),
                tile_bytes: self.shape.tile_bytes(),
            },
            input: b.stack(BLOCK_INPUTS * 4),
            scaled: b.stack(BLOCK_INPUTS * 4),
        };
        let (begin, end) = b.range();
        // The norm's factor belongs to a token; a range of items rarely spans more than one.
        let none = b.int(-1);
        let zero = b.float_of(Ty::F32, 0.0);
        let (current, inverse) = (b.var(none), b.var(zero));
        b.for_range(begin, end, 1, |b, item| {
            let (token, block) = split_item(b, item, self.shape.blocks() as i64);
            let row = b.at(bases.x, token, self.x_stride as i64 * 4);
            if let Before::RmsNorm { eps, .. } = self.before {
                let seen = b.get(current);
                let change = b.sub(token, seen);
                b.if_then(change, |b| {
                    let factor = inverse_rms(b, row, self.shape.d_in as i64, eps);
                    b.set(inverse, factor);
                    b.set(current, token);
                });
            }
            let factor = b.get(inverse);
            self.block(b, &bases, token, block, row, factor);
        });
        b.finish()
    }
}

impl RbPrepare {
    /// Inputs of the last block, and the same rounded up to whole tiles.
    fn last_block(&self) -> (i64, i64) {
        let last = self.shape.d_in - (self.shape.blocks() - 1) * BLOCK_INPUTS;
        (last as i64, last.next_multiple_of(TILE_INPUTS) as i64)
    }

    fn block(&self, b: &mut Builder, o: &Bases, token: Val, block: Val, row: Val, inverse: Val) {
        let (last, padded) = self.last_block();
        let full = BLOCK_INPUTS as i64;
        let blocks = self.shape.blocks() as i64;
        if blocks == 1 || last == full {
            return self.sized_block(b, o, [token, block, row, inverse], last, padded);
        }
        let last_block = b.int(blocks - 1);
        let is_last = b.cmp(CmpOp::Eq, block, last_block);
        b.if_else(
            is_last,
            |b| self.sized_block(b, o, [token, block, row, inverse], last, padded),
            |b| self.sized_block(b, o, [token, block, row, inverse], full, full),
        );
    }

    /// One block of `n` inputs, `padded` with zeros to whole tiles.
    fn sized_block(&self, b: &mut Builder, o: &Bases, at: [Val; 4], n: i64, padded: i64) {
        let [token, block, row, inverse] = at;
        let first = b.mul_imm(block, BLOCK_INPUTS as i64);
        self.input(b, o, [token, first, row, inverse], n);
        let tables = b.at(o.tables, token, self.shape.token_bytes() as i64);
        let block_bytes = (BLOCK_INPUTS / TILE_INPUTS * self.shape.tile_bytes()) as i64;
        let tables = b.at(tables, block, block_bytes);
        let scales = b.at(o.scales, token, self.shape.scale_bytes() as i64);
        let scales = b.at(scales, block, 4);
        b.for_const(self.shape.sets as i64, 1, |b, set| {
            let h = b.at(o.h, set, self.shape.d_in as i64 * self.h.bytes());
            let h = b.at(h, first, self.h.bytes());
            self.scale(b, o, h, n);
            let tables = b.at(tables, set, self.shape.set_bytes() as i64);
            let scale = b.at(scales, set, self.shape.blocks() as i64 * 4);
            o.fill.tables(b, o.scaled, [tables, scale], padded);
        });
    }

    /// prologue(x) of the block's inputs into `o.input`.
    fn input(&self, b: &mut Builder, o: &Bases, at: [Val; 4], n: i64) {
        let [token, first, row, inverse] = at;
        let row = b.at(row, first, 4);
        let second = o.second.map(|s| match self.before {
            Before::Gate { up_stride, .. } => {
                super::shape::address(b, s, token, up_stride as i64, first)
            }
            Before::RmsNorm { weight, .. } => b.at(s, first, weight.bytes()),
            Before::Nothing => s,
        });
        super::shape::for_columns(b, n, &mut |b, column, ty| {
            let at = b.at(row, column, 4);
            let mut x = b.load(ty, at, 0);
            if let Some(second) = second {
                x = self.before(b, x, second, column, inverse, ty);
            }
            let to = b.at(o.input, column, 4);
            b.store(to, 0, x);
        });
    }

    fn before(&self, b: &mut Builder, x: Val, second: Val, column: Val, inv: Val, ty: Ty) -> Val {
        match self.before {
            Before::Nothing => x,
            Before::Gate { act, .. } => {
                let at = b.at(second, column, 4);
                let up = b.load(ty, at, 0);
                let x = activate(b, act, x);
                b.mul(x, up)
            }
            Before::RmsNorm {
                weight,
                unit_offset,
                ..
            } => {
                let at = b.at(second, column, weight.bytes());
                let w = b.load_as(ty, weight.mem(), at, 0);
                scaled(b, x, inv, w, unit_offset, ty)
            }
        }
    }

    /// u = h ⊙ input into `o.scaled`, then zeros up to a multiple of the vector's bytes.
    fn scale(&self, b: &mut Builder, o: &Bases, h: Val, n: i64) {
        let step = TILE_INPUTS.max(b.width());
        let padded = (n as usize).next_multiple_of(step) as i64;
        super::shape::for_columns(b, n, &mut |b, column, ty| {
            let at = b.at(o.input, column, 4);
            let x = b.load(ty, at, 0);
            let at = b.at(h, column, self.h.bytes());
            let h = b.load_as(ty, self.h.mem(), at, 0);
            let u = b.mul(x, h);
            let to = b.at(o.scaled, column, 4);
            b.store(to, 0, u);
        });
        if n < padded {
            let (start, end) = (b.int(n), b.int(padded));
            b.for_range(start, end, 1, |b, column| {
                let zero = b.float_of(Ty::F32, 0.0);
                let to = b.at(o.scaled, column, 4);
                b.store(to, 0, zero);
            });
        }
    }
}
