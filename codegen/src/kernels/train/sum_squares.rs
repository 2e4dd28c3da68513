//! Sums of squares, a chunk of elements an item.

use super::rows::block_of_rows;
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Elem, Kernel, Ty};

/// Elements of an item; a multiple of every vector's lanes.
pub const CHUNK: usize = 4096;

/// Sums kept apart, in vectors.
const CHAINS: usize = 4;

/// `out[i] = Σ x²` of chunk i; items: chunks.
pub struct SumSquares;

impl Spec for SumSquares {
    fn name(&self) -> String {
        "sum_squares".into()
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let x = b.input("x");
        let out = b.output("out");
        let n = b.scalar("n");
        let (lanes, vector) = (b.lanes() as i64, b.vec(Elem::F32));
        let step = CHAINS as i64 * lanes;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (first, last) = block_of_rows(b, item, CHUNK as i64, n);
            let zero = b.float(0.0);
            let sums = [(); CHAINS].map(|()| b.var(zero));
            let length = b.sub(last, first);
            let shift = step.trailing_zeros() as u8;
            let whole = b.shr(length, shift);
            let whole = b.shl(whole, shift);
            let whole = b.add(first, whole);
            b.for_range(first, whole, step, |b, i| {
                let at = b.at(x, i, 4);
                for (chain, sum) in sums.iter().enumerate() {
                    let x = b.load(vector, at, (chain as i64 * lanes * 4) as i32);
                    let before = b.get(*sum);
                    let now = b.fma(x, x, before);
                    b.set(*sum, now);
                }
            });
            let [s0, s1, s2, s3] = sums.map(|s| b.get(s));
            let (low, high) = (b.add(s0, s1), b.add(s2, s3));
            let total = b.add(low, high);
            let total = b.sum(total);
            let total = b.var(total);
            b.for_range(whole, last, 1, |b, i| {
                let at = b.at(x, i, 4);
                let x = b.load(Ty::F32, at, 0);
                let before = b.get(total);
                let now = b.fma(x, x, before);
                b.set(total, now);
            });
            let total = b.get(total);
            let to = b.at(out, item, 4);
            b.store(to, 0, total);
        });
        b.finish()
    }
}
