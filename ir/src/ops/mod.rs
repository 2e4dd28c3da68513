//! The ops, one file each (or one for a family of one-line ops), and what their rules share.

pub mod attention;
pub mod attention_train;
pub mod attention_train_grad;
pub mod cast;
pub mod cross_entropy;
pub mod effective_weight;
pub mod elementwise;
pub mod elementwise_grad;
pub mod embed;
pub mod gate;
pub mod heads;
pub mod int8;
pub mod kl_divergence;
pub mod linear;
pub mod linear_int8;
pub mod matmul;
pub mod pack;
pub mod paths;
pub mod residual_binary;
pub mod residual_sign;
pub mod rms_norm;
pub mod rms_norm_grad;
pub mod rope;
pub mod round;
pub mod sample;
pub mod scatter_add;
pub mod select_rows;
pub mod slice;
pub mod source;
pub mod squared_error;
pub mod sums;

use crate::types::{DType, Dim, Type};

/// Requires an f32 activation `[rows, d]` with d ≥ 1 and gives `(rows, d)`.
pub(crate) fn activation(name: &str, ty: &Type) -> Result<(Dim, usize), String> {
    match (ty.dtype, ty.shape.as_slice()) {
        (DType::F32, [rows, Dim::Fixed(d)]) if *d > 0 => Ok((*rows, *d)),
        _ => Err(format!("{name} must be f32[rows,d], found {ty}")),
    }
}

/// Requires a float matrix of known size, not empty, and gives `(rows, columns)`.
pub(crate) fn matrix(name: &str, ty: &Type) -> Result<(usize, usize), String> {
    match (ty.dtype.is_float(), ty.shape.as_slice()) {
        (true, [Dim::Fixed(r), Dim::Fixed(c)]) if *r > 0 && *c > 0 => Ok((*r, *c)),
        _ => Err(format!("{name} must be a float matrix, found {ty}")),
    }
}

/// Requires a scalar, `f32[1]`.
pub(crate) fn scalar(name: &str, ty: &Type) -> Result<(), String> {
    match *ty == Type::fixed(DType::F32, &[1]) {
        true => Ok(()),
        false => Err(format!("{name} must be f32[1], found {ty}")),
    }
}

/// Requires two activations of one type and gives it.
pub(crate) fn alike(a: (&str, &Type), b: (&str, &Type)) -> Result<Type, String> {
    activation(a.0, a.1)?;
    match a.1 == b.1 {
        true => Ok(a.1.clone()),
        false => Err(format!("{} is {}, {} is {}", a.0, a.1, b.0, b.1)),
    }
}

/// Requires a float vector of known size, not empty, and gives its length.
pub(crate) fn vector(name: &str, ty: &Type) -> Result<usize, String> {
    match (ty.dtype.is_float(), ty.shape.as_slice()) {
        (true, [Dim::Fixed(n)]) if *n > 0 => Ok(*n),
        _ => Err(format!("{name} must be a float vector, found {ty}")),
    }
}

/// Requires `found == expected`.
pub(crate) fn same(what: &str, expected: usize, found: usize) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what} is {found}, expected {expected}"))
}

/// Requires a number that is finite and not negative.
pub(crate) fn not_negative(what: &str, value: f32) -> Result<(), String> {
    if value.is_finite() && value >= 0.0 {
        return Ok(());
    }
    Err(format!(
        "{what} is {value}, it must be finite and not negative"
    ))
}
