//! What is done to a kernel before it is lowered, in place of Cranelift's own optimiser (see
//! [`super::isa`] for why): computed once what is computed twice, known what can be known, out of
//! the loop what does not change in it. Statements with an effect, loads included, and what
//! remains of the rest keep their order.

mod fold;
mod hoist;
mod share;

use crate::kir::Kernel;

/// The kernel, equal in effect. A valid kernel stays valid.
pub(super) fn prepare(kernel: &Kernel) -> Kernel {
    hoist::hoist(&share::share(kernel))
}

#[cfg(test)]
mod tests;
