//! Appends keys and values to a layer's cache.
//!
//! Keys lie as `[kv head][position / 16][channel][position % 16]`, so that the scores of 16
//! positions come from loads that follow each other and need no sum across lanes; values as
//! `[kv head][position][channel]`. Both hold `capacity` positions a head, a multiple of 16.

use super::shape::{address, for_columns, split_item};
use super::{Spec, Vectors};
use crate::kir::{Builder, Kernel, Ty, Val};

/// Stores this step's keys and values; items: tokens × kv heads.
pub struct KvAppend {
    /// Key/value heads.
    pub n_kv_heads: usize,
    /// Channels of a head.
    pub head_dim: usize,
    /// Elements a row of k.
    pub k_stride: usize,
    /// Elements a row of v.
    pub v_stride: usize,
}

impl Spec for KvAppend {
    fn name(&self) -> String {
        format!(
            "kv_append_h{}_d{}_k{}_v{}",
            self.n_kv_heads, self.head_dim, self.k_stride, self.v_stride
        )
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let (k, v) = (b.input("k"), b.input("v"));
        let (keys, values) = (b.output("keys"), b.output("values"));
        let (start, capacity) = (b.scalar("start"), b.scalar("capacity"));
        let head_dim = self.head_dim as i64;
        let (begin, end) = b.range();
        b.for_range(begin, end, 1, |b, item| {
            let (token, head) = split_item(b, item, self.n_kv_heads as i64);
            let position = b.add(start, token);
            let column = b.mul_imm(head, head_dim);
            let k = address(b, k, token, self.k_stride as i64, column);
            let v = address(b, v, token, self.v_stride as i64, column);
            let head_base = b.mul(head, capacity);
            let head_base = b.mul_imm(head_base, head_dim * 4);
            let keys = b.add(keys, head_base);
            let keys = key_address(b, keys, position, head_dim);
            let values = b.add(values, head_base);
            let values = b.at(values, position, head_dim * 4);
            b.for_const(head_dim, 1, |b, channel| {
                let from = b.at(k, channel, 4);
                let x = b.load(Ty::F32, from, 0);
                let to = b.at(keys, channel, 64);
                b.store(to, 0, x);
            });
            for_columns(b, head_dim, &mut |b, channel, ty| {
                let from = b.at(v, channel, 4);
                let x = b.load(ty, from, 0);
                let to = b.at(values, channel, 4);
                b.store(to, 0, x);
            });
        });
        b.finish()
    }
}

/// Address of channel 0 of the key at `position`, given the head's base address.
fn key_address(b: &mut Builder, keys: Val, position: Val, head_dim: i64) -> Val {
    let block = b.shr(position, 4);
    let first = b.shl(block, 4);
    let lane = b.sub(position, first);
    let block = b.at(keys, block, head_dim * 64);
    b.at(block, lane, 4)
}
