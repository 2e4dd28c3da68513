//! Attention and its gradient.

use rabitc_codegen::cuda::kernels::train::attention::{Attention, Heads};
use rabitc_codegen::cuda::kernels::train::attention_grad::{AttentionDelta, AttentionGrad};
use rabitc_ir::DType::BF16;

use super::{Case, case, dense};

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

pub fn cases() -> Vec<Case> {
    vec![
        case("attention_64", attention(heads(64, 0, 0.0))),
        case(
            "attention_10_window_softcap",
            attention(heads(10, 40, 30.0)),
        ),
        case(
            "attention_grad_q_64",
            attention_grad(heads(64, 0, 0.0), true),
        ),
        case(
            "attention_grad_kv_64",
            attention_grad(heads(64, 0, 0.0), false),
        ),
        case(
            "attention_grad_kv_10",
            attention_grad(heads(10, 40, 30.0), false),
        ),
        case(
            "attention_delta",
            AttentionDelta {
                head_dim: 64,
                y: dense(BF16, 300, 256),
                dy: dense(BF16, 300, 256),
            },
        ),
    ]
}

/// Wider heads, which take all registers there are.
pub fn wide() -> Vec<Case> {
    let wide = heads(128, 0, 0.0);
    vec![
        case("attention_128", attention(wide)),
        case("attention_grad_q_128", attention_grad(wide, true)),
        case("attention_grad_kv_128", attention_grad(wide, false)),
    ]
}
