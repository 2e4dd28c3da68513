//! The maker of `residual_binary`, whose operands follow from its attributes.

use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::residual_binary::{Activations, Prologue, ResidualBinary};
use rabitc_ir::{DType, NodeId};

use super::{Random, activation_type};

impl Random {
    pub(super) fn residual_binary(&mut self) -> NodeId {
        let x = self.activation();
        let (rows, d_in) = self.shape(x);
        let packed = self.rng.below(2) == 0;
        let op = ResidualBinary {
            paths: self.rng.between(1, 3),
            segments: self.segments(),
            prologue: self.rng.pick(Prologue::ALL),
            act: self.rng.pick(Activation::ALL),
            eps: self.rng.pick(&[0.0, 1e-6]),
            unit_offset: self.rng.below(2) == 0,
            residual: self.rng.below(2) == 0,
            row_tiles: self.rng.between(usize::from(packed), 4),
            packed,
            activations: self.rng.pick(Activations::ALL),
        };
        let mut operands = vec![x];
        match op.prologue {
            Prologue::None => {}
            Prologue::RmsNorm => operands.push(self.weight(DType::F32, &[d_in])),
            Prologue::Gate => operands.push(self.value(&activation_type(rows, d_in))),
        }
        self.layer_weights(&op, d_in, &mut operands);
        if op.residual {
            let d_out = op.segments.iter().sum();
            operands.push(self.value(&activation_type(rows, d_out)));
        }
        self.add(op, &operands)
    }

    fn layer_weights(&mut self, op: &ResidualBinary, d_in: usize, operands: &mut Vec<NodeId>) {
        let (g, h) = (self.float(), self.float());
        if op.packed {
            let layout = op.layout(d_in);
            let bytes = layout.sign_bytes().expect("a small layer");
            let count = layout.scale_count().expect("a small layer");
            operands.push(self.weight(DType::U8, &[bytes]));
            operands.push(self.weight(g, &[count]));
            operands.push(self.weight(h, &[op.segments.len() * op.paths, d_in]));
            return;
        }
        for &d_out in &op.segments {
            operands.push(self.weight(DType::Bit, &[op.paths, d_out, d_in]));
            operands.push(self.weight(g, &[op.paths, d_out]));
            operands.push(self.weight(h, &[op.paths, d_in]));
        }
    }
}
