//! Elementwise computations that were gathered into one kernel.

use rabitc_codegen::kernels::train::map::MapKernel;
use rabitc_codegen::train::{Map, Store, Term, View};
use rabitc_ir::DType;
use rabitc_ir::ops::gate::Activation;

use super::Buffer::{Floats, Result};
use super::agree;

/// Columns of a matrix `[3, stride]`.
fn view(value: usize, columns: usize, stride: usize) -> View {
    View {
        value,
        offset: 0,
        rows: 3,
        columns,
        stride,
    }
}

#[test]
fn maps() {
    let (silu, gelu) = (Activation::Silu, Activation::GeluTanh);
    let terms = vec![
        Term::Load { operand: 0 },
        Term::Column { operand: 1 },
        Term::Padded {
            operand: 2,
            start: 19,
        },
        Term::Add(0, 1),
        Term::Act(gelu, 3),
        Term::ActSlope(silu, 0),
        Term::ActSlope(gelu, 4),
        Term::Softcap(0.5, 5),
        Term::SoftcapSlope(0.5, 6),
        Term::Sum(vec![(1.0, 7), (-0.5, 8), (2.0, 2)]),
        Term::Round(DType::F16, 9),
        Term::Round(DType::BF16, 0),
        Term::Mul(10, 11),
    ];
    let store = |term, value, accumulate| Store {
        term,
        to: view(value, 45, 45),
        accumulate,
    };
    let padded = Map {
        node: "map".into(),
        rows: 3,
        columns: 45,
        operands: vec![view(0, 45, 50), view(1, 45, 45), view(2, 7, 7)],
        terms,
        stores: vec![store(12, 3, false), store(2, 4, true)],
    };
    let kernel = MapKernel::of(&padded);
    let buffers = [
        Floats(2 * 50 + 45),
        Floats(45),
        Floats(3 * 7),
        Result(3 * 45),
        Result(3 * 45),
    ];
    agree(&kernel, &buffers, &[], kernel.items());
    let flat = Map {
        operands: vec![view(0, 45, 45)],
        terms: vec![Term::Load { operand: 0 }, Term::Act(silu, 0)],
        stores: vec![store(1, 1, false)],
        ..padded
    };
    let kernel = MapKernel::of(&flat);
    agree(&kernel, &[Floats(135), Result(135)], &[], kernel.items());
}
