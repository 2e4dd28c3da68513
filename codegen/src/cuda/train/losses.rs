//! Losses and their gradients.

use rabitc_ir::ops::squared_error::Normalize;

use super::{Arg, Lower, line};
use crate::cuda::kernels::train::cross_entropy::{CrossEntropy, LabelCount};
use crate::cuda::kernels::train::kl_divergence::KlDivergence;
use crate::cuda::kernels::train::row_reduce::{Reduce, RowReduce};
use crate::cuda::kernels::train::sample::Sample;
use crate::cuda::kernels::train::squared_error::SquaredError;
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

    /// The loss of logits and labels and its gradient, as far as asked for.
    pub(super) fn cross_entropy(&mut self, o: &[View], loss: Option<View>, gradient: Option<View>) {
        let spec = CrossEntropy {
            logits: self.layout(o[0]),
            loss: loss.is_some(),
            gradient: gradient.map(|g| self.layout(g)),
        };
        let rows = o[0].rows;
        let mut args = Self::views(&o[..2]);
        if let Some(gradient) = gradient {
            let count = self.scratch(4);
            let labels = vec![Arg::View(o[1]), count];
            self.launch(&LabelCount { rows }, line(1), labels);
            args.extend([Arg::View(o[2]), count, Arg::View(gradient)]);
        }
        let pairs = loss.map(|_| self.scratch(rows * 8));
        args.extend(pairs);
        self.launch(&spec, line(rows), args);
        if let (Some(pairs), Some(loss)) = (pairs, loss) {
            self.reduce(rows, pairs, Reduce::Ratio, Arg::View(loss));
        }
    }

    pub(super) fn sample(&mut self, o: &[View], to: View) {
        let logits = self.layout(o[0]);
        let args = Self::views(&[o[0], o[1], to]);
        self.launch(&Sample { logits }, line(o[0].rows), args);
    }

    /// A squared error and its gradient, as far as asked for. They are in one kernel, but for a gradient
    /// that is divided by what all rows have together.
    pub(super) fn squared_error(
        &mut self,
        o: &[View],
        loss: Option<View>,
        gradient: Option<View>,
        normalize: Normalize,
    ) {
        let spec = SquaredError {
            x: self.layout(o[0]),
            target: self.layout(o[1]),
            normalize,
            loss: loss.is_some(),
            gradient: gradient.map(|g| self.layout(g)),
        };
        let total = gradient.filter(|_| normalize == Normalize::Target);
        let total = total.map(|_| self.energy(&spec, o));
        let mut args = Self::views(&o[..2]);
        args.extend(gradient.iter().flat_map(|g| Self::views(&[o[2], *g])));
        args.extend(total);
        let pairs = loss.map(|_| self.scratch(o[0].rows * 8));
        args.extend(pairs);
        self.launch(&spec, line(spec.blocks()), args);
        if let (Some(pairs), Some(loss)) = (pairs, loss) {
            self.reduce(o[0].rows, pairs, Reduce::Ratio, Arg::View(loss));
        }
    }

    /// The energy of a squared error's target.
    fn energy(&mut self, spec: &SquaredError, o: &[View]) -> Arg {
        let spec = SquaredError {
            loss: true,
            gradient: None,
            ..spec.clone()
        };
        let (pairs, total) = (self.scratch(o[0].rows * 8), self.scratch(4));
        let args = vec![Arg::View(o[0]), Arg::View(o[1]), pairs];
        self.launch(&spec, line(spec.blocks()), args);
        self.reduce(o[0].rows, pairs, Reduce::Second, total);
        total
    }
}
