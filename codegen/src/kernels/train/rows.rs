//! Sums and maxima over a row.

use super::functions::exp_or_nan;
use crate::kernels::math;
use crate::kernels::shape::{broadcast, for_columns};
use crate::kir::{Builder, Elem, Ty, UnOp, Val, Var};

/// What a sum adds at a column, to each of the sums so far: the column, the type to compute in (a
/// vector or an f32 scalar) and the sums; gives the new sums.
pub type Step<'a> = dyn FnMut(&mut Builder, Val, Ty, &[Val]) -> Vec<Val> + 'a;

/// `count` sums over columns `0..n`, f32 scalars, each in `chains` vectors that are added up at
/// the end: more chains wait less for each other and round less.
pub fn sum_columns(
    b: &mut Builder,
    n: i64,
    count: usize,
    chains: i64,
    step: &mut Step<'_>,
) -> Vec<Val> {
    let (lanes, vector) = (b.lanes() as i64, b.vec(Elem::F32));
    let (wide, whole) = (n / (chains * lanes) * chains * lanes, n / lanes * lanes);
    let used = if wide > 0 { chains } else { 1 };
    let zero = b.float(0.0);
    let sums: Vec<Vec<Var>> = (0..used)
        .map(|_| (0..count).map(|_| b.var(zero)).collect())
        .collect();
    if wide > 0 {
        b.for_const(wide, chains * lanes, |b, column| {
            for (i, sums) in sums.iter().enumerate() {
                let column = b.add_imm(column, i as i64 * lanes);
                advance(b, column, vector, sums, step);
            }
        });
    }
    if wide < whole {
        let (start, end) = (b.int(wide), b.int(whole));
        b.for_range(start, end, lanes, |b, column| {
            advance(b, column, vector, &sums[0], step);
        });
    }
    let totals: Vec<Var> = (0..count)
        .map(|i| {
            let chains = sums.iter().map(|chain| b.get(chain[i])).collect();
            let total = fold(b, chains);
            let total = b.sum(total);
            b.var(total)
        })
        .collect();
    if whole < n {
        let (start, end) = (b.int(whole), b.int(n));
        b.for_range(start, end, 1, |b, column| {
            advance(b, column, Ty::F32, &totals, step);
        });
    }
    totals.into_iter().map(|t| b.get(t)).collect()
}

fn advance(b: &mut Builder, column: Val, ty: Ty, sums: &[Var], step: &mut Step<'_>) {
    let before: Vec<Val> = sums.iter().map(|s| b.get(*s)).collect();
    let after = step(b, column, ty, &before);
    for (sum, value) in sums.iter().zip(after) {
        b.set(*sum, value);
    }
}

/// Adds neighbours until one is left.
fn fold(b: &mut Builder, mut values: Vec<Val>) -> Val {
    while values.len() > 1 {
        let pairs = values.chunks(2);
        values = pairs
            .map(|pair| match *pair {
                [x, y] => b.add(x, y),
                _ => pair[0],
            })
            .collect();
    }
    values[0]
}

/// The largest of `n` floats from `x` on, an f32 scalar.
pub fn max_columns(b: &mut Builder, x: Val, n: i64) -> Val {
    let lanes = b.lanes() as i64;
    let first = b.load(Ty::F32, x, 0);
    let (all, tail) = (b.splat(first), b.var(first));
    let largest = b.var(all);
    for_columns(b, n, &mut |b, column, ty| {
        let at = b.at(x, column, 4);
        let value = b.load(ty, at, 0);
        let var = if ty.lanes == 1 { tail } else { largest };
        let before = b.get(var);
        let now = b.max(before, value);
        b.set(var, now);
    });
    let tail = b.get(tail);
    if n < lanes {
        return tail;
    }
    let largest = b.get(largest);
    let largest = b.max_lane(largest);
    b.max(largest, tail)
}

/// The f32 at `base`, in every lane of `ty`.
pub fn load_broadcast(b: &mut Builder, ty: Ty, base: Val) -> Val {
    let scalar = b.load(Ty::F32, base, 0);
    broadcast(b, scalar, ty)
}

/// e^(x[column] − shift) in type `ty`; NaN for NaN.
pub fn shifted_exp(b: &mut Builder, x: Val, column: Val, shift: Val, ty: Ty) -> Val {
    let at = b.at(x, column, 4);
    let x = b.load(ty, at, 0);
    let shift = broadcast(b, shift, ty);
    let x = b.sub(x, shift);
    exp_or_nan(b, x)
}

/// 1 / √(square / n + eps), all f32 scalars.
pub fn inverse_root(b: &mut Builder, square: Val, n: i64, eps: f32) -> Val {
    let share = b.float_of(Ty::F32, 1.0 / n as f32);
    let eps = b.float_of(Ty::F32, eps);
    let mean = b.fma(square, share, eps);
    let root = b.un(UnOp::Sqrt, mean);
    let one = b.float_of(Ty::F32, 1.0);
    b.div(one, root)
}

/// The rows of item `item`: from `item · block` on, no further than `rows`.
pub fn block_of_rows(b: &mut Builder, item: Val, block: i64, rows: Val) -> (Val, Val) {
    let first = b.mul_imm(item, block);
    let end = b.add_imm(first, block);
    let end = math::min_int(b, end, rows);
    (first, end)
}

/// Zeros in `n` floats from `x` on.
pub fn clear(b: &mut Builder, x: Val, n: i64) {
    for_columns(b, n, &mut |b, column, ty| {
        let zero = b.float_of(ty, 0.0);
        let at = b.at(x, column, 4);
        b.store(at, 0, zero);
    });
}

/// `to[column] = a · scale + to[column]`.
pub fn add_scaled(b: &mut Builder, to: Val, column: Val, a: Val, scale: Val) {
    let ty = b.ty(a);
    let at = b.at(to, column, 4);
    let before = b.load(ty, at, 0);
    let sum = b.fma(a, scale, before);
    b.store(at, 0, sum);
}
