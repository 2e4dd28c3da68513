//! The GPU kernels: one file each.

pub mod argmax;
pub mod attention_decode;
pub mod attention_prefill;
pub mod copies;
pub mod elementwise;
pub mod embed;
pub mod heads;
pub mod linear;
pub mod planes;
pub mod rb_fold;
pub mod rb_gemv;
pub mod rb_prefill;
pub mod rb_prepare;
pub mod rb_product;
pub mod rb_repack;
pub mod read_memory;
pub mod rms_norm;
pub mod rotate_append;
pub mod select_rows;
