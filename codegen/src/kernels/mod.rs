//! The kernels: one file each, written against the kernel IR with the vector width as a parameter.
//!
//! A [`Spec`] is a kernel's typed configuration. Its name encodes the whole configuration, so two
//! launches whose specs have one name share one kernel.

pub mod attention;
pub mod elementwise;
pub mod embed;
pub mod kv_append;
pub mod linear;
pub mod math;
mod rb_block;
mod rb_bytes;
mod rb_dots;
mod rb_fill;
mod rb_floats;
pub mod rb_prepare;
pub mod rb_product;
mod rb_rows;
pub mod rb_tables;
pub mod rms_norm;
pub mod rope;
pub mod select_rows;
pub mod shape;
pub mod train;

use crate::kir::{Kernel, MemType};

/// The vectors that a kernel is written for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vectors {
    /// Bytes of one: 16, 32 or 64.
    pub bytes: usize,
    /// Whether bytes can be permuted over the whole of it, where it is 64 bytes.
    pub permute: bool,
}

impl Vectors {
    /// Vectors of `bytes` bytes that are permuted within 16 bytes only.
    pub fn plain(bytes: usize) -> Self {
        Vectors {
            bytes,
            permute: false,
        }
    }

    /// f32 lanes.
    pub fn lanes(self) -> usize {
        self.bytes / 4
    }
}

/// The configuration of one kernel.
pub trait Spec {
    /// A name that encodes the whole configuration: letters, digits and `_`.
    fn name(&self) -> String;
    /// The kernel for such vectors.
    fn build(&self, vectors: Vectors) -> Kernel;
}

/// Element type of a float tensor in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// binary32
    F32,
    /// binary16
    F16,
    /// bfloat16
    BF16,
}

impl Float {
    /// The float type of an IR dtype, if it is one.
    pub fn of(dtype: rabitc_ir::DType) -> Option<Float> {
        match dtype {
            rabitc_ir::DType::F32 => Some(Float::F32),
            rabitc_ir::DType::F16 => Some(Float::F16),
            rabitc_ir::DType::BF16 => Some(Float::BF16),
            _ => None,
        }
    }

    /// The word in kernel names.
    pub fn name(self) -> &'static str {
        match self {
            Float::F32 => "f32",
            Float::F16 => "f16",
            Float::BF16 => "bf16",
        }
    }

    /// Bytes of one element.
    pub fn bytes(self) -> i64 {
        match self {
            Float::F32 => 4,
            _ => 2,
        }
    }

    /// The form in memory as the kernel IR names it.
    pub fn mem(self) -> MemType {
        match self {
            Float::F32 => MemType::Same,
            Float::F16 => MemType::F16,
            Float::BF16 => MemType::BF16,
        }
    }
}
