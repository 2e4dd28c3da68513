//! The float type that the interpreter computes with.
//!
//! Ops are defined in f32: operands and results are f32, sums are taken in f64. Gradients are
//! checked by finite differences, for which f32 is too coarse, so that the same definitions can
//! be evaluated in f64 throughout.

use std::borrow::Cow;
use std::fmt::{Debug, Display};
use std::ops::{Add, AddAssign, Div, Mul, Neg, Sub, SubAssign};

/// f32 or f64.
pub trait Real:
    Copy
    + Debug
    + Display
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + Add<Output = Self>
    + AddAssign
    + Sub<Output = Self>
    + SubAssign
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The value in f64, exactly.
    fn wide(self) -> f64;
    /// The value of this type that is nearest to `x`.
    fn round(x: f64) -> Self;
    /// The value of an f32, exactly.
    fn from_f32(x: f32) -> Self;
    /// The nearest f32.
    fn narrow(self) -> f32;
    /// The values of f32s, exactly.
    fn from_f32s(values: Vec<f32>) -> Vec<Self>;
    /// The nearest f32s: what is defined in f32 arithmetic works on them in either type.
    fn to_f32s(values: &[Self]) -> Cow<'_, [f32]>;
}

impl Real for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn round(x: f64) -> Self {
        x as f32
    }
    fn from_f32(x: f32) -> Self {
        x
    }
    fn narrow(self) -> f32 {
        self
    }
    fn from_f32s(values: Vec<f32>) -> Vec<Self> {
        values
    }
    fn to_f32s(values: &[Self]) -> Cow<'_, [f32]> {
        Cow::Borrowed(values)
    }
}

impl Real for f64 {
    fn wide(self) -> f64 {
        self
    }
    fn round(x: f64) -> Self {
        x
    }
    fn from_f32(x: f32) -> Self {
        f64::from(x)
    }
    fn narrow(self) -> f32 {
        self as f32
    }
    fn from_f32s(values: Vec<f32>) -> Vec<Self> {
        values.into_iter().map(f64::from).collect()
    }
    fn to_f32s(values: &[Self]) -> Cow<'_, [f32]> {
        values.iter().map(|x| *x as f32).collect()
    }
}
