//! The text of a kernel.

use super::*;
use crate::kir::Builder;

#[test]
fn text_of_a_kernel() {
    let mut b = Builder::new("sample", 16);
    let (x, y) = (b.input("x"), b.output("y"));
    let n = b.scalar("n");
    let (begin, end) = b.range();
    let zero = b.float(0.0);
    let sum = b.var(zero);
    b.for_range(begin, end, 4, |b, i| {
        let at = b.at(x, i, 2);
        b.prefetch(Cache::L1, at, -64);
        let ty = b.vec(Elem::F32);
        let v = b.load_as(ty, MemType::F16, at, 32);
        let s = b.get(sum);
        let s = b.fma(v, v, s);
        b.set(sum, s);
    });
    b.if_else(
        n,
        |b| {
            let s = b.get(sum);
            let s = b.sum(s);
            b.store(y, 0, s);
        },
        |b| {
            let mask = b.bytes(Elem::I8, &std::array::from_fn::<u8, 16, _>(|i| i as u8));
            let high = b.interleave(mask, mask, true);
            b.store(y, 16, high);
        },
    );
    insta::assert_snapshot!(print(&b.finish()), @r"
    kernel sample {
      input x
      output y
      scalar n
      var $0: f32x4

      v0: i64 = param x
      v1: i64 = param y
      v2: i64 = scalar n
      v3: i64 = begin
      v4: i64 = end
      v5: f32x4 = float 0.0
      $0 = v5
      for v6 in v3..v4 step 4 {
        v7: i64 = int 2
        v8: i64 = mul v6, v7
        v9: i64 = add v0, v8
        prefetch l1 [v9 - 64]
        v10: f32x4 = load f16 [v9 + 32]
        v11: f32x4 = get $0
        v12: f32x4 = fma v10, v10, v11
        $0 = v12
      }
      if v2 {
        v13: f32x4 = get $0
        v14: f32 = sum v13
        store [v1], v14
      } else {
        v15: i8x16 = bytes 00010203_04050607_08090a0b_0c0d0e0f
        v16: i8x16 = interleave high v15, v15
        store [v1 + 16], v16
      }
    }
    ");
}

#[test]
fn constants_are_told_apart() {
    let mut b = Builder::new("k", 16);
    for x in [0.0, -0.0, 1e-45, f32::MAX, f32::NAN, f32::NEG_INFINITY] {
        b.float(x);
    }
    let text = print(&b.finish());
    let mut lines: Vec<_> = text.lines().map(|l| l.split('=').next_back()).collect();
    let count = lines.len();
    lines.dedup();
    assert_eq!(lines.len(), count, "{text}");
}
