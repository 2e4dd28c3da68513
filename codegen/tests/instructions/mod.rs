//! Tests of every instruction of the kernel IR: the code of every backend against the interpreter,
//! with vectors of `WIDTH` bytes, which the crate that this module is in chooses.

mod arith;
mod control;
mod kernels;
mod lanes;
mod random;
mod training;
