//! The GPU kernels: one file each.

pub mod argmax;
pub mod attention_decode;
pub mod attention_prefill;
pub mod attention_tokens;
pub mod copies;
pub mod effective_weight;
pub mod elementwise;
pub mod embed;
pub mod finish;
pub mod heads;
pub mod linear;
pub mod linear_tokens;
pub mod planes;
pub mod rb_fold;
pub mod rb_gemv;
pub mod rb_prefill;
pub mod rb_prefill_wgmma;
pub mod rb_prepare;
pub mod rb_repack;
pub mod rb_tokens;
pub mod read_memory;
pub mod rms_norm;
pub mod rotate_append;
pub mod sample;
pub mod select_rows;
pub mod train;
