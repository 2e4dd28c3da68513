//! Attention over whole sequences, its gradients, and the rotations ahead of it.

use rabitc_codegen::kernels::rope::Rope;
use rabitc_codegen::kernels::train::attention::{AttentionTrain, Heads};
use rabitc_codegen::kernels::train::attention_grad::{AttentionGrad, HeadDots, Side};

use super::Buffer::{Floats, Result};
use super::agree;

#[test]
fn attention() {
    let (d, rows) = (11, 2 * 70);
    let heads = Heads {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: d,
        scale: 0.3,
        window: 67,
        softcap: 2.0,
        seq_len: 70,
        q_stride: 4 * d,
        k_stride: 2 * d,
        v_stride: 2 * d,
    };
    let [q, kv] = [4, 2].map(|n| rows * n * d);
    let forward = AttentionTrain {
        heads,
        values: true,
        lse: true,
    };
    let buffers = [
        Floats(q),
        Floats(kv),
        Floats(kv),
        Result(q),
        Result(rows * 4),
    ];
    agree(&forward, &buffers, &[], rows * 4);
    let dots = HeadDots {
        heads: 4,
        head_dim: d,
        a_stride: 4 * d,
        b_stride: 4 * d,
    };
    agree(
        &dots,
        &[Floats(q), Floats(q), Result(rows * 4)],
        &[],
        rows * 4,
    );
    for (side, n) in [(Side::Queries, 4), (Side::Keys, 2)] {
        let grad = AttentionGrad {
            side,
            heads,
            dy_stride: 4 * d,
        };
        let numbers = || Floats(rows * 4);
        let buffers = [
            Floats(q),
            Floats(kv),
            Floats(kv),
            numbers(),
            Floats(q),
            numbers(),
            Result(q + 2 * kv),
        ];
        agree(&grad, &buffers, &[], rows * n);
    }
    let rope = Rope {
        heads: 3,
        head_dim: 10,
        x_stride: 30,
        inverse: true,
    };
    agree(&rope, &[Floats(90), Floats(30), Result(90)], &[], 9);
}
