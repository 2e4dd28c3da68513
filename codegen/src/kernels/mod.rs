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
pub mod rb_prepare;
pub mod rb_product;
mod rb_sums;
pub mod rb_tables;
pub mod rms_norm;
pub mod rope;
pub mod select_rows;
pub mod shape;

use crate::kir::{Kernel, MemType};

/// The configuration of one kernel.
pub trait Spec {
    /// A name that encodes the whole configuration: letters, digits and `_`.
    fn name(&self) -> String;
    /// The kernel, for vectors of `width` bytes.
    fn build(&self, width: usize) -> Kernel;
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
