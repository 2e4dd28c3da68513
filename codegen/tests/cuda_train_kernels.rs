//! GPU kernels of training graphs: snapshots of what is emitted, and NVRTC's opinion of it.

use rabitc_codegen::cuda::kernels::train::Layout;
use rabitc_codegen::cuda::kernels::train::adamw::AdamW;
use rabitc_codegen::cuda::kernels::train::attention::{Attention, Heads};
use rabitc_codegen::cuda::kernels::train::attention_grad::{AttentionDelta, AttentionGrad};
use rabitc_codegen::cuda::kernels::train::column_sum::ColumnSum;
use rabitc_codegen::cuda::kernels::train::cross_entropy::CrossEntropy;
use rabitc_codegen::cuda::kernels::train::effective_scale_grad::{
    EffectiveScaleGrad, JoinScaleGrads,
};
use rabitc_codegen::cuda::kernels::train::effective_weight::{Cores, EffectiveWeight};
use rabitc_codegen::cuda::kernels::train::embed::Embed;
use rabitc_codegen::cuda::kernels::train::kl_divergence::KlDivergence;
use rabitc_codegen::cuda::kernels::train::map::MapKernel;
use rabitc_codegen::cuda::kernels::train::rms_norm::RmsNorm;
use rabitc_codegen::cuda::kernels::train::rms_norm_grad::RmsNormGrad;
use rabitc_codegen::cuda::kernels::train::rope::{Rope, RopeTable};
use rabitc_codegen::cuda::kernels::train::row_reduce::{Reduce, RowReduce};
use rabitc_codegen::cuda::kernels::train::scatter_add::ScatterAdd;
use rabitc_codegen::cuda::kernels::train::square_norm::SquareNorm;
use rabitc_codegen::cuda::kernels::train::squared_error::{SquaredError, SquaredErrorGrad};
use rabitc_codegen::cuda::{Compiler, CudaSpec};
use rabitc_codegen::train::Term;
use rabitc_ir::DType;
use rabitc_ir::DType::{BF16, F32};
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_rbx::SmArch;

/// A matrix whose rows follow each other.
fn dense(dtype: DType, rows: usize, columns: usize) -> Layout {
    let fits = |v: &usize| columns.is_multiple_of(*v);
    Layout {
        dtype,
        rows,
        columns,
        stride: columns,
        vector: [8, 4, 2].into_iter().find(fits).unwrap_or(1),
    }
}

/// Columns of a wider matrix.
fn part(dtype: DType, rows: usize, columns: usize, stride: usize) -> Layout {
    let vector = if stride.is_multiple_of(8) { 8 } else { 1 };
    Layout {
        stride,
        vector,
        ..dense(dtype, rows, columns)
    }
}

fn heads(head_dim: usize, window: usize, softcap: f32) -> Heads {
    Heads {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim,
        scale: 0.125,
        window,
        softcap,
        seq_len: 150,
        rows: 300,
    }
}

fn attention(heads: Heads) -> Attention {
    let rows = |n: usize| dense(BF16, heads.rows, n * heads.head_dim);
    Attention {
        heads,
        qkv: [rows(4), rows(2), rows(2)],
        y: Some(rows(4)),
        lse: true,
    }
}

fn attention_grad(heads: Heads, of_queries: bool) -> AttentionGrad {
    let rows = |n: usize| dense(BF16, heads.rows, n * heads.head_dim);
    AttentionGrad {
        heads,
        operands: [rows(4), rows(2), rows(2), rows(4)],
        out: rows(8),
        of_queries,
    }
}

fn cores(derive: Derive, dtype: DType) -> Cores {
    Cores {
        paths: 2,
        latent: dense(dtype, 96, 160),
        derive,
    }
}

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

fn cases() -> Vec<(&'static str, Box<dyn CudaSpec>)> {
    let (weights, independent) = (Derive::Residual, Derive::Independent);
    vec![
        ("map_gate_grads", Box::new(gate_grads())),
        ("map_odd", Box::new(odd_map())),
        ("attention_64", Box::new(attention(heads(64, 0, 0.0)))),
        (
            "attention_10_window_softcap",
            Box::new(attention(heads(10, 40, 30.0))),
        ),
        (
            "attention_grad_q_64",
            Box::new(attention_grad(heads(64, 0, 0.0), true)),
        ),
        (
            "attention_grad_kv_64",
            Box::new(attention_grad(heads(64, 0, 0.0), false)),
        ),
        (
            "attention_grad_kv_10",
            Box::new(attention_grad(heads(10, 40, 30.0), false)),
        ),
        (
            "attention_delta",
            Box::new(AttentionDelta {
                head_dim: 64,
                y: dense(BF16, 300, 256),
                dy: dense(BF16, 300, 256),
            }),
        ),
        (
            "column_sum",
            Box::new(ColumnSum {
                x: dense(BF16, 1000, 33),
                chunk: 512,
            }),
        ),
        (
            "row_reduce",
            Box::new(RowReduce {
                rows: 300,
                reduce: Reduce::Ratio,
            }),
        ),
        (
            "kl_divergence",
            Box::new(KlDivergence {
                teacher: dense(F32, 300, 2048),
                student: dense(F32, 300, 2048),
                loss: true,
                gradient: Some(dense(BF16, 300, 2048)),
            }),
        ),
        (
            "cross_entropy",
            Box::new(CrossEntropy {
                logits: dense(F32, 300, 77),
                gradient: None,
            }),
        ),
        (
            "cross_entropy_grad",
            Box::new(CrossEntropy {
                logits: dense(F32, 300, 77),
                gradient: Some(dense(BF16, 300, 77)),
            }),
        ),
        (
            "squared_error",
            Box::new(SquaredError {
                x: dense(F32, 300, 96),
                target: dense(F32, 300, 96),
                normalize: Normalize::Rows,
            }),
        ),
        (
            "squared_error_grad",
            Box::new(SquaredErrorGrad {
                x: dense(F32, 300, 96),
                target: dense(F32, 300, 96),
                out: dense(BF16, 300, 96),
                normalize: Normalize::Target,
            }),
        ),
        (
            "rms_norm",
            Box::new(RmsNorm {
                x: dense(F32, 300, 96),
                weight: BF16,
                out: dense(BF16, 300, 96),
                group: 96,
                eps: 1e-5,
                unit_offset: true,
            }),
        ),
        (
            "rms_norm_grads",
            Box::new(RmsNormGrad {
                x: dense(F32, 300, 96),
                dy: dense(BF16, 300, 96),
                dx: Some((F32, dense(BF16, 300, 96))),
                dweight: true,
                group: 32,
                eps: 1e-5,
                unit_offset: false,
            }),
        ),
        (
            "rms_norm_grad_long",
            Box::new(RmsNormGrad {
                x: dense(F32, 30, 4096),
                dy: dense(BF16, 30, 4096),
                dx: Some((F32, dense(BF16, 30, 4096))),
                dweight: true,
                group: 4096,
                eps: 1e-5,
                unit_offset: false,
            }),
        ),
        (
            "rope",
            Box::new(Rope {
                x: part(BF16, 300, 64, 256),
                out: dense(BF16, 300, 64),
                half: 16,
                back: false,
            }),
        ),
        (
            "rope_table",
            Box::new(RopeTable {
                rows: 300,
                half: 16,
                factor: 1.0,
            }),
        ),
        (
            "embed",
            Box::new(Embed {
                table: dense(BF16, 2048, 96),
                out: dense(F32, 300, 96),
                scale: 1.0,
            }),
        ),
        (
            "scatter_add",
            Box::new(ScatterAdd {
                x: dense(BF16, 300, 96),
                rows: 2048,
                scale: 1.0,
                accumulate: true,
            }),
        ),
        (
            "effective_weight",
            Box::new(EffectiveWeight {
                cores: cores(weights, F32),
                out: dense(BF16, 96, 160),
            }),
        ),
        (
            "effective_weight_independent",
            Box::new(EffectiveWeight {
                cores: cores(independent, BF16),
                out: dense(BF16, 96, 160),
            }),
        ),
        (
            "effective_scale_grad",
            Box::new(EffectiveScaleGrad {
                dweight: dense(F32, 96, 160),
                cores: cores(weights, F32),
                frozen: 1,
            }),
        ),
        (
            "join_scale_grads",
            Box::new(JoinScaleGrads {
                paths: 2,
                d_out: 96,
                d_in: 160,
                tiles: [2, 12],
            }),
        ),
        ("adamw", Box::new(AdamW)),
        ("square_norm", Box::new(SquareNorm)),
    ]
}

#[test]
fn what_is_emitted_does_not_change_by_itself() {
    for (name, spec) in cases() {
        let source = spec.source(SmArch::new(9, 0));
        assert_eq!(source.name, spec.name());
        insta::with_settings!({ snapshot_path => "cuda_train", prepend_module_to_snapshot => false, omit_expression => true }, {
            insta::assert_snapshot!(name, source.text);
        });
    }
}

#[test]
fn every_kernel_compiles_and_none_spills() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error) => return println!("skipped: {error}"),
    };
    let mut all = cases();
    let wide = heads(128, 0, 0.0);
    all.push(("attention_128", Box::new(attention(wide))));
    all.push(("attention_grad_q_128", Box::new(attention_grad(wide, true))));
    all.push((
        "attention_grad_kv_128",
        Box::new(attention_grad(wide, false)),
    ));
    for (name, spec) in all {
        for arch in [SmArch::new(8, 0), SmArch::new(9, 0)] {
            let compiled = compiler.compile(&spec.source(arch), arch);
            let found = compiled.unwrap_or_else(|e| panic!("{name}: {e}")).resources;
            let spilled = (found.spill_stores, found.spill_loads);
            assert_eq!(spilled, (0, 0), "{name} for {arch} spills: {found:?}");
        }
    }
}
