//! What a residual-binary product does with the sums of its rows.

use rabitc_ir::ops::gate::Activation;

/// What is done with the sums of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Stored.
    Store,
    /// Added to a residual with rows of so many f32.
    Residual(usize),
    /// act(first segment) ⊙ second segment of a paired layout.
    Gate(Activation),
}

impl Finish {
    /// The activation of a gate.
    pub fn gate(self) -> Option<Activation> {
        match self {
            Finish::Gate(act) => Some(act),
            _ => None,
        }
    }

    /// The stride of a residual, in f32.
    pub fn residual(self) -> Option<usize> {
        match self {
            Finish::Residual(stride) => Some(stride),
            _ => None,
        }
    }
}
