//! Attention, and the way of heads into it.

use rabitc_codegen::cuda::kernels::attention_decode::AttentionDecode;
use rabitc_codegen::cuda::kernels::attention_prefill::AttentionPrefill;
use rabitc_codegen::cuda::kernels::cached_attention::CachedAttention;
use rabitc_codegen::cuda::kernels::heads::Chains;
use rabitc_codegen::cuda::kernels::rotate_append::RotateAppend;

use super::{Case, case};
use crate::cuda_chains::chains;

/// All of them.
pub fn cases() -> Vec<Case> {
    [one(), many()].into_iter().flatten().collect()
}

fn decode(
    (n_heads, n_kv_heads, head_dim): (usize, usize, usize),
    splits: usize,
    window: usize,
    softcap: f32,
    chains: Chains,
) -> AttentionDecode {
    AttentionDecode {
        over: CachedAttention {
            n_heads,
            n_kv_heads,
            head_dim,
            splits,
            scale: 0.125,
            window,
            softcap,
            chains,
        },
    }
}

/// One token.
fn one() -> Vec<Case> {
    vec![
        case(
            "attention_llama",
            decode((32, 32, 128), 8, 0, 0.0, chains(12288, false, false)),
        ),
        case(
            "attention_gemma",
            decode((4, 1, 256), 8, 512, 0.0, chains(1536, true, true)),
        ),
        case(
            "attention_grouped",
            decode((28, 4, 128), 8, 0, 30.0, chains(4608, true, false)),
        ),
        case(
            "attention_odd",
            decode((3, 3, 6), 1, 7, 2.5, chains(54, false, true)),
        ),
    ]
}

/// Many tokens.
fn many() -> Vec<Case> {
    vec![
        case(
            "attention_prefill",
            AttentionPrefill {
                n_heads: 32,
                n_kv_heads: 32,
                head_dim: 128,
                window: 0,
                softcap: 0.0,
                filled: true,
            },
        ),
        case(
            "attention_prefill_512",
            AttentionPrefill {
                n_heads: 32,
                n_kv_heads: 8,
                head_dim: 128,
                window: 0,
                softcap: 0.0,
                filled: false,
            },
        ),
        case(
            "attention_prefill_wide",
            AttentionPrefill {
                n_heads: 4,
                n_kv_heads: 1,
                head_dim: 256,
                window: 512,
                softcap: 0.0,
                filled: false,
            },
        ),
        case(
            "attention_prefill_odd",
            AttentionPrefill {
                n_heads: 6,
                n_kv_heads: 3,
                head_dim: 38,
                window: 9,
                softcap: 5.0,
                filled: false,
            },
        ),
        case(
            "rotate_append",
            RotateAppend {
                n_heads: 32,
                n_kv_heads: 8,
                head_dim: 128,
                scale: 0.088,
                chains: chains(6144, true, true),
            },
        ),
    ]
}
