use super::*;
use crate::kir::check::check;
use crate::kir::print::print;
use crate::kir::{Builder, CmpOp, Elem, Inst, Ty};

/// The text of the prepared kernel, without its head.
fn prepared(build: impl FnOnce(&mut Builder)) -> String {
    let mut b = Builder::new("k", 16);
    build(&mut b);
    let kernel = prepare(&b.finish());
    check(&kernel).unwrap();
    print(&kernel)
}

#[test]
fn addresses_become_offsets() {
    let text = prepared(|b| {
        let (x, y) = (b.input("x"), b.output("y"));
        let at = b.add_imm(x, 64);
        let at = b.add_imm(at, -16);
        let v = b.load(Ty::I64, at, 8);
        let to = b.at(y, v, 16);
        let to = b.add_imm(to, 1 << 40);
        b.store(to, 0, v);
        let again = b.at(y, v, 16);
        b.prefetch(crate::kir::Cache::L1, again, 0);
    });
    insta::assert_snapshot!(text, @r"
    kernel k {
      input x
      output y

      v0: i64 = param x
      v1: i64 = param y
      v2: i64 = int 64
      v3: i64 = add v0, v2
      v4: i64 = int -16
      v16: i64 = int 48
      v5: i64 = add v0, v16
      v6: i64 = load [v0 + 56]
      v7: i64 = int 16
      v8: i64 = shl v6, 4
      v9: i64 = add v1, v8
      v10: i64 = int 1099511627776
      v11: i64 = add v9, v10
      store [v11], v6
      prefetch l1 [v9]
    }
    ");
}

#[test]
fn constants_are_computed() {
    let text = prepared(|b| {
        let (out, n) = (b.output("out"), b.scalar("n"));
        let (six, seven) = (b.int(6), b.int(7));
        let product = b.mul(six, seven);
        let x = b.mul_imm(n, 1);
        let x = b.add_imm(x, 0);
        let x = b.add(seven, x);
        let x = b.sub(x, six);
        let x = b.mul_imm(x, 0);
        b.store(out, 0, product);
        b.store(out, 8, x);
    });
    insta::assert_snapshot!(text, @r"
    kernel k {
      output out
      scalar n

      v0: i64 = param out
      v1: i64 = scalar n
      v2: i64 = int 6
      v3: i64 = int 7
      v4: i64 = int 42
      v5: i64 = int 1
      v7: i64 = int 0
      v9: i64 = add v1, v3
      v10: i64 = add v1, v5
      store [v0], v4
      store [v0 + 8], v7
    }
    ");
}

#[test]
fn the_same_is_computed_once_in_a_scope() {
    let text = prepared(|b| {
        let (x, y) = (b.input("x"), b.output("y"));
        let n = b.scalar("n");
        let (plus, minus) = (b.float(0.0), b.float(-0.0));
        b.store(y, 0, plus);
        b.store(y, 16, minus);
        b.if_else(
            n,
            |b| {
                let a = b.mul(n, n);
                b.store(y, 32, a);
            },
            |b| {
                let a = b.mul(n, n);
                let zero = b.float(0.0);
                b.store(y, 40, a);
                b.store(y, 48, zero);
            },
        );
        // Loads are not shared, for what is stored between them may change them.
        let (v, w) = (b.load(Ty::I64, x, 0), b.load(Ty::I64, x, 0));
        let sum = b.add(v, w);
        b.store(y, 0, sum);
    });
    insta::assert_snapshot!(text, @r"
    kernel k {
      input x
      output y
      scalar n

      v0: i64 = param x
      v1: i64 = param y
      v2: i64 = scalar n
      v3: f32x4 = float 0.0
      v4: f32x4 = float -0.0
      store [v1], v3
      store [v1 + 16], v4
      if v2 {
        v5: i64 = mul v2, v2
        store [v1 + 32], v5
      } else {
        v6: i64 = mul v2, v2
        store [v1 + 40], v6
        store [v1 + 48], v3
      }
      v8: i64 = load [v0]
      v9: i64 = load [v0]
      v10: i64 = add v8, v9
      store [v1], v10
    }
    ");
}

#[test]
fn what_does_not_change_leaves_the_loop() {
    let text = prepared(|b| {
        let (x, y) = (b.input("x"), b.output("y"));
        let n = b.scalar("n");
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, row| {
            b.for_range(begin, n, 1, |b, column| {
                let mask = b.bytes(Elem::I8, &[15; 16]);
                let stride = b.mul(n, n);
                let from = b.at(x, row, 4096);
                let from = b.add(from, stride);
                let at = b.at(from, column, 16);
                let ty = b.vec(Elem::I8);
                let v = b.load(ty, at, 0);
                let v = b.and(v, mask);
                let quotient = b.div(n, row);
                let is_first = b.cmp(CmpOp::Eq, column, begin);
                b.if_then(is_first, |b| {
                    let twice = b.add(n, n);
                    b.store(y, 8, twice);
                });
                b.store(y, 0, quotient);
                b.store(y, 16, v);
            });
        });
    });
    insta::assert_snapshot!(text, @r"
    kernel k {
      input x
      output y
      scalar n

      v0: i64 = param x
      v1: i64 = param y
      v2: i64 = scalar n
      v3: i64 = begin
      v4: i64 = end
      v8: i64 = mul v2, v2
      v9: i64 = int 4096
      v13: i64 = int 16
      for v5 in v3..v4 step 1 {
        v7: i8x16 = bytes 0f0f0f0f_0f0f0f0f_0f0f0f0f_0f0f0f0f
        v10: i64 = shl v5, 12
        v11: i64 = add v0, v10
        v12: i64 = add v11, v8
        for v6 in v3..v2 step 1 {
          v14: i64 = shl v6, 4
          v15: i64 = add v12, v14
          v16: i8x16 = load [v15]
          v17: i8x16 = and v16, v7
          v18: i64 = div v2, v5
          v19: i64 = cmp_eq v6, v3
          if v19 {
            v20: i64 = add v2, v2
            store [v1 + 8], v20
          }
          store [v1], v18
          store [v1 + 16], v17
        }
      }
    }
    ");
}

#[test]
fn a_variable_stays_in_the_loop() {
    let text = prepared(|b| {
        let y = b.output("y");
        let (begin, end) = b.range();
        let var = b.var(begin);
        b.for_range(begin, end, 1, |b, _| {
            let area = b.stack(16);
            let v = b.get(var);
            let v = b.emit(Ty::I64, Inst::Shl(v, 1));
            b.store(area, 0, v);
            b.set(var, v);
        });
        let v = b.get(var);
        b.store(y, 0, v);
    });
    insta::assert_snapshot!(text, @r"
    kernel k {
      output y
      var $0: i64

      v0: i64 = param y
      v1: i64 = begin
      v2: i64 = end
      $0 = v1
      v4: i64 = stack 16
      for v3 in v1..v2 step 1 {
        v5: i64 = get $0
        v6: i64 = shl v5, 1
        store [v4], v6
        $0 = v6
      }
      v7: i64 = get $0
      store [v0], v7
    }
    ");
}
