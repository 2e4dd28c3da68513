//! What can be wrong with a matrix that is to be fitted.

use thiserror::Error;

/// Why no residual-binary scales were found for a matrix.
///
/// The caller knows the tensor's name and puts it in front.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum FitError {
    /// The number of residual-binary paths is outside what the kernels handle.
    #[error("cannot fit {paths} residual-binary paths: choose 1 to {max}")]
    Paths {
        /// Paths asked for.
        paths: usize,
        /// Most paths supported.
        max: usize,
    },
    /// A dimension is zero, or the slice does not hold `d_out * d_in` values.
    #[error("a [{d_out}, {d_in}] weight cannot be fitted from {len} values")]
    Shape {
        /// Rows asked for.
        d_out: usize,
        /// Columns asked for.
        d_in: usize,
        /// Values given.
        len: usize,
    },
    /// A weight is NaN or infinite; the first one in row-major order is named.
    #[error("weight[{row}, {col}] is {value}; residual-binary scales need finite weights")]
    NonFinite {
        /// Row of the first such weight.
        row: usize,
        /// Column of the first such weight.
        col: usize,
        /// The weight itself.
        value: f32,
    },
    /// The weights are so large that a scale exceeds the f16 range.
    #[error(
        "the scales of path {path} exceed the f16 range (largest weight {max_abs:e}); \
         rescale this layer or keep it dense"
    )]
    ScaleOverflow {
        /// The path, counted from 0.
        path: usize,
        /// Largest absolute weight of the matrix.
        max_abs: f32,
    },
    /// The weights are so small, though not all zero, that the scales vanish in f16.
    #[error(
        "the scales vanish in f16 (largest weight {max_abs:e}); \
         rescale this layer or keep it dense"
    )]
    ScaleUnderflow {
        /// Largest absolute weight of the matrix.
        max_abs: f32,
    },
}
