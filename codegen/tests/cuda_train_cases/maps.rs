//! What is computed element by element.

use rabitc_codegen::cuda::kernels::train::map::MapKernel;
use rabitc_codegen::train::Term;
use rabitc_ir::DType;
use rabitc_ir::DType::{BF16, F32};
use rabitc_ir::ops::gate::Activation;

use super::{Case, case, dense, part};

/// silu(gate) ⊙ up, and what remains of it in the backward pass: two gradients at once.
fn gate_grads() -> MapKernel {
    let layout = dense(BF16, 48, 160);
    MapKernel {
        rows: 48,
        columns: 160,
        operands: vec![layout; 3],
        terms: vec![
            Term::Load { operand: 0 },
            Term::Load { operand: 1 },
            Term::Load { operand: 2 },
            Term::Act(Activation::Silu, 0),
            Term::Mul(2, 3),
            Term::Mul(2, 1),
            Term::ActSlope(Activation::Silu, 0),
            Term::Mul(6, 5),
        ],
        stores: vec![(4, layout, false), (7, layout, false)],
    }
}

/// Every other kind of term, at sizes that no vector fits.
fn odd_map() -> MapKernel {
    MapKernel {
        rows: 5,
        columns: 21,
        operands: vec![dense(F32, 5, 21), dense(F32, 1, 21), part(BF16, 5, 7, 14)],
        terms: vec![
            Term::Load { operand: 0 },
            Term::Column { operand: 1 },
            Term::Padded {
                operand: 2,
                start: 7,
            },
            Term::Softcap(30.0, 0),
            Term::SoftcapSlope(30.0, 0),
            Term::Act(Activation::GeluTanh, 3),
            Term::ActSlope(Activation::GeluTanh, 4),
            Term::Round(DType::F16, 5),
            Term::Round(BF16, 6),
            Term::Add(7, 1),
            Term::Sum(vec![(1.0, 9), (-0.5, 2), (1.0, 8)]),
        ],
        stores: vec![(10, dense(F32, 5, 21), true)],
    }
}

pub fn cases() -> Vec<Case> {
    vec![
        case("map_gate_grads", gate_grads()),
        case("map_odd", odd_map()),
    ]
}
