//! Attention and its gradient.

use rabitc_codegen::cuda::kernels::train::attention::{Attention, Heads};
use rabitc_codegen::cuda::kernels::train::attention_grad::{
    AttentionGradPositions, AttentionGradQueries,
};
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

fn queries(heads: Heads) -> AttentionGradQueries {
    let rows = |n: usize| dense(BF16, heads.rows, n * heads.head_dim);
    AttentionGradQueries {
        heads,
        operands: [rows(4), rows(2), rows(2), rows(4)],
        y: rows(4),
        out: rows(8),
    }
}

fn positions(heads: Heads) -> AttentionGradPositions {
    let rows = |n: usize| dense(BF16, heads.rows, n * heads.head_dim);
    AttentionGradPositions {
        heads,
        operands: [rows(4), rows(2), rows(2), rows(4)],
        out: rows(8),
    }
}

pub fn cases() -> Vec<Case> {
    let (plain, odd) = (heads(64, 0, 0.0), heads(10, 40, 30.0));
    vec![
        case("attention_64", attention(plain)),
        case("attention_10_window_softcap", attention(odd)),
        case("attention_grad_q_64", queries(plain)),
        case("attention_grad_q_10", queries(odd)),
        case("attention_grad_kv_64", positions(plain)),
        case("attention_grad_kv_10", positions(odd)),
    ]
}

/// Wider heads, which take all registers there are.
pub fn others() -> Vec<Case> {
    let (wide, middle) = (heads(128, 0, 0.0), heads(96, 20, 0.0));
    vec![
        case("attention_128", attention(wide)),
        case("attention_grad_q_128", queries(wide)),
        case("attention_grad_kv_128", positions(wide)),
        case("attention_96", attention(middle)),
        case("attention_grad_q_96", queries(middle)),
        case("attention_grad_kv_96", positions(middle)),
    ]
}
