//! Losses and their gradients.

use rabitc_ir::ops::squared_error::Normalize;

use super::{Arg, Lower, line};
use crate::cuda::kernels::train::cross_entropy::CrossEntropy;
use crate::cuda::kernels::train::kl_divergence::KlDivergence;
use crate::cuda::kernels::train::row_reduce::{Reduce, RowReduce};
use crate::cuda::kernels::train::sample::Sample;
use crate::cuda::kernels::train::squared_error::{SquaredError, SquaredErrorGrad};
use crate::train::View;

impl Lower<'_> {
    /// The end of a loss: pairs of numbers to their ratio.
    pub(super) fn reduce(&mut self, rows: usize, pairs: Arg, reduce: Reduce, to: Arg) {
        self.launch(&RowReduce { rows, reduce }, line(1), vec![pairs, to]);
    }

    pub(super) fn divergence(&mut self, o: &[View], loss: Option<View>, gradient: Option<View>) {
        let spec = KlDivergence {
            teacher: self.layout(o[0]),
            student: self.layout(o[1]),
            loss: loss.is_some(),
            gradient: gradient.map(|g| self.layout(g)),
        };
        let rows = o[1].rows;
        let mut args = Self::views(&o[..2]);
        args.extend(gradient.iter().flat_map(|g| Self::views(&[o[2], *g])));
        let pairs = loss.map(|_| self.scratch(rows * 8));
        args.extend(pairs);
        self.launch(&spec, line(rows), args);
        if let (Some(pairs), Some(loss)) = (pairs, loss) {
            self.reduce(rows, pairs, Reduce::Ratio, Arg::View(loss));
        }
    }

    pub(super) fn cross_entropy(&mut self, o: &[View], to: View) {
        let (logits, gradient) = (self.layout(o[0]), None);
        let pairs = self.scratch(o[0].rows * 8);
        let args = vec![Arg::View(o[0]), Arg::View(o[1]), pairs];
        let spec = CrossEntropy { logits, gradient };
        self.launch(&spec, line(o[0].rows), args);
        self.reduce(o[0].rows, pairs, Reduce::Ratio, Arg::View(to));
    }

    pub(super) fn cross_entropy_grad(&mut self, o: &[View], to: View) {
        let (logits, gradient) = (self.layout(o[0]), Some(self.layout(to)));
        let spec = CrossEntropy { logits, gradient };
        let args = Self::views(&[o[0], o[1], o[2], to]);
        self.launch(&spec, line(o[0].rows), args);
    }

    pub(super) fn sample(&mut self, o: &[View], to: View) {
        let logits = self.layout(o[0]);
        let args = Self::views(&[o[0], o[1], to]);
        self.launch(&Sample { logits }, line(o[0].rows), args);
    }

    /// The pairs that a squared error is the ratio of.
    pub(super) fn error_pairs(&mut self, o: &[View], normalize: Normalize) -> Arg {
        let spec = SquaredError {
            x: self.layout(o[0]),
            target: self.layout(o[1]),
            normalize,
        };
        let rows = o[0].rows;
        let pairs = self.scratch(rows * 8);
        let args = vec![Arg::View(o[0]), Arg::View(o[1]), pairs];
        self.launch(&spec, line(rows.div_ceil(8)), args);
        pairs
    }

    pub(super) fn squared_error(&mut self, o: &[View], to: View, normalize: Normalize) {
        let pairs = self.error_pairs(o, normalize);
        self.reduce(o[0].rows, pairs, Reduce::Ratio, Arg::View(to));
    }

    pub(super) fn squared_error_grad(&mut self, o: &[View], to: View, normalize: Normalize) {
        let mut args = Self::views(&[o[0], o[1], o[2], to]);
        if normalize == Normalize::Target {
            let pairs = self.error_pairs(o, normalize);
            let total = self.scratch(4);
            self.reduce(o[0].rows, pairs, Reduce::Second, total);
            args.push(total);
        }
        let spec = SquaredErrorGrad {
            x: self.layout(o[0]),
            target: self.layout(o[1]),
            out: self.layout(to),
            normalize,
        };
        self.launch(&spec, line(o[0].rows.div_ceil(8)), args);
    }
}
