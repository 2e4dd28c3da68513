//! Snapshots of the kernels of training graphs: the kernel IR and the x86-64-v3 assembly of each.
//!
//! A change that should not alter code leaves every snapshot byte for byte.

mod cranelift_texts;

use cranelift_texts::{compile_for_every_level, texts};
use rabitc_codegen::kernels::Spec;
use rabitc_codegen::kernels::rope::Rope;
use rabitc_codegen::kernels::train::adamw::AdamW;
use rabitc_codegen::kernels::train::attention::{AttentionTrain, Heads};
use rabitc_codegen::kernels::train::attention_grad::{AttentionGrad, HeadDots, Side};
use rabitc_codegen::kernels::train::column_sums::{ColumnSums, SumPartials, Terms};
use rabitc_codegen::kernels::train::cross_entropy::{self, CrossEntropy};
use rabitc_codegen::kernels::train::effective_weight::{
    EffectiveScaleGrad, EffectiveWeight, Layer,
};
use rabitc_codegen::kernels::train::kl_divergence::{self, KlDivergence};
use rabitc_codegen::kernels::train::log_sum_exp::LogSumExp;
use rabitc_codegen::kernels::train::map::MapKernel;
use rabitc_codegen::kernels::train::rms_norm_grad::RmsNormGrad;
use rabitc_codegen::kernels::train::scatter_add::ScatterAdd;
use rabitc_codegen::kernels::train::squared_error::{self, SquaredError};
use rabitc_codegen::kernels::train::sum_squares::SumSquares;
use rabitc_codegen::train::{Map, Store, Term, View};
use rabitc_ir::DType;
use rabitc_ir::ops::gate::Activation;

/// Of Llama's shape, but for the number of heads, and one with everything else.
fn heads(softcap: f32, window: usize, head_dim: usize) -> Heads {
    Heads {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim,
        scale: 0.125,
        window,
        softcap,
        seq_len: 128,
        q_stride: 4 * head_dim,
        k_stride: 2 * head_dim,
        v_stride: 2 * head_dim,
    }
}

fn attention() -> Vec<Box<dyn Spec>> {
    let (llama, odd) = (heads(0.0, 0, 64), heads(30.0, 17, 10));
    let dots = HeadDots {
        heads: 4,
        head_dim: 10,
        a_stride: 40,
        b_stride: 40,
    };
    let mut specs: Vec<Box<dyn Spec>> = vec![Box::new(dots)];
    for (heads, lse) in [(llama, true), (odd, false)] {
        let values = true;
        specs.push(Box::new(AttentionTrain { heads, values, lse }));
        for side in [Side::Queries, Side::Keys] {
            let dy_stride = 4 * heads.head_dim;
            specs.push(Box::new(AttentionGrad {
                side,
                heads,
                dy_stride,
            }));
        }
    }
    specs
}

fn losses() -> Vec<Box<dyn Spec>> {
    let kl = |part| KlDivergence {
        part,
        d: 2049,
        teacher_stride: 2049,
        student_stride: 2049,
    };
    let entropy = |part| CrossEntropy {
        part,
        d: 77,
        x_stride: 77,
    };
    let error = |part| SquaredError {
        part,
        d: 77,
        x_stride: 77,
        target_stride: 80,
    };
    vec![
        Box::new(LogSumExp {
            d: 2049,
            x_stride: 2049,
        }),
        Box::new(kl(kl_divergence::Part::Rows)),
        Box::new(kl(kl_divergence::Part::Gradient)),
        Box::new(entropy(cross_entropy::Part::Rows)),
        Box::new(entropy(cross_entropy::Part::Gradient)),
        Box::new(error(squared_error::Part::Rows)),
        Box::new(error(squared_error::Part::Gradient)),
    ]
}

fn layers() -> Vec<Box<dyn Spec>> {
    let layer = |independent| Layer {
        paths: 2,
        d_out: 37,
        d_in: 130,
        independent,
    };
    let (shared, own) = (layer(false), layer(true));
    vec![
        Box::new(EffectiveWeight { layer: shared }),
        Box::new(EffectiveWeight { layer: own }),
        Box::new(EffectiveScaleGrad {
            layer: shared,
            frozen: 0,
        }),
        Box::new(EffectiveScaleGrad {
            layer: own,
            frozen: 1,
        }),
    ]
}

fn others() -> Vec<Box<dyn Spec>> {
    let eps = 1e-5;
    let terms = Terms::Normalized {
        group: 65,
        eps,
        dy_stride: 130,
    };
    let sums = |terms| ColumnSums {
        terms,
        d: 130,
        x_stride: 130,
    };
    let scatter = |zeroed| ScatterAdd {
        d: 45,
        x_stride: 45,
        scale: 0.5,
        zeroed,
    };
    vec![
        Box::new(RmsNormGrad {
            d: 130,
            group: 65,
            x_stride: 130,
            dy_stride: 130,
            eps,
            unit_offset: true,
        }),
        Box::new(sums(Terms::Rows)),
        Box::new(sums(terms)),
        Box::new(SumPartials {
            d: 45,
            rows: 2,
            out_stride: 50,
        }),
        Box::new(Rope {
            heads: 3,
            head_dim: 10,
            x_stride: 30,
            inverse: true,
        }),
        Box::new(scatter(None)),
        Box::new(scatter(Some(5))),
        Box::new(SumSquares),
        Box::new(AdamW {
            stochastic_bf16: false,
        }),
        Box::new(AdamW {
            stochastic_bf16: true,
        }),
    ]
}

/// The gradient of a gate, and columns side by side rounded to both 16-bit types.
fn maps() -> Vec<Box<dyn Spec>> {
    let view = |value, columns, stride| View {
        value,
        offset: 0,
        rows: 3,
        columns,
        stride,
    };
    let store = |term, to, accumulate| Store {
        term,
        to,
        accumulate,
    };
    let act = Activation::Silu;
    let gate = Map {
        node: "gate".into(),
        rows: 3,
        columns: 45,
        operands: vec![view(0, 45, 90), view(1, 45, 90), view(2, 45, 45)],
        terms: vec![
            Term::Load { operand: 0 },
            Term::Load { operand: 1 },
            Term::Load { operand: 2 },
            Term::ActSlope(act, 0),
            Term::Mul(3, 1),
            Term::Mul(4, 2),
        ],
        stores: vec![store(5, view(3, 45, 45), false)],
    };
    let padded = Map {
        node: "padded".into(),
        operands: vec![view(0, 7, 7), view(1, 45, 45)],
        terms: vec![
            Term::Padded {
                operand: 0,
                start: 19,
            },
            Term::Column { operand: 1 },
            Term::Sum(vec![(1.0, 0), (0.5, 1)]),
            Term::Round(DType::F16, 2),
            Term::Round(DType::BF16, 3),
        ],
        stores: vec![store(4, view(2, 45, 45), true)],
        ..gate.clone()
    };
    let maps = [gate, padded];
    maps.iter()
        .map(|map| Box::new(MapKernel::of(map)) as Box<dyn Spec>)
        .collect()
}

fn specs() -> Vec<Box<dyn Spec>> {
    let all = [attention(), losses(), layers(), others(), maps()];
    all.into_iter().flatten().collect()
}

#[test]
fn kernel_ir_and_assembly_are_as_they_were() {
    for (name, text) in texts(&specs()) {
        insta::assert_snapshot!(name, text);
    }
}

#[test]
fn every_kernel_compiles_for_every_level() {
    compile_for_every_level(&specs());
}
