//! Steps: one function a kind of node.

use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;
use rabitc_ir::{DType, NodeId, Op};

use super::Lower;
use super::map::MapBuilder;
use crate::CodegenError;
use crate::train::step::{Gemm, Kernel, KernelStep, Place, Step, Store, View};

/// Parts of a sum that one map adds up.
const MOST_PARTS: usize = 12;

impl Lower<'_> {
    /// Adds the result of `id` to the gradients that it is a part of.
    pub(super) fn accumulate(&mut self, id: NodeId) -> Result<(), CodegenError> {
        let Some(names) = self.roots.sinks.get(&id) else {
            return Ok(());
        };
        let from = self.view(id)?;
        let mut stores = Vec::new();
        for name in names {
            let to = self.gradient(name, from)?;
            let (term, accumulate) = (0, true);
            stores.push(Store {
                term,
                to,
                accumulate,
            });
        }
        self.load(self.graph.node(id).name.clone(), from, stores);
        Ok(())
    }

    pub(super) fn product(&mut self, id: NodeId) -> Result<(), CodegenError> {
        let operands = self.graph.operands(id);
        let (a, b) = (self.factor(operands[0])?, self.factor(operands[1])?);
        let (transpose_a, transpose_b) = match self.graph.op(id) {
            Op::Linear(_) => (false, true),
            Op::MatmulTn(_) => (true, false),
            _ => (false, false),
        };
        let (c, accumulate) = match (self.straight(id)?, self.sums.get(&id).copied()) {
            (Some(gradient), _) => (gradient, true),
            (None, Some(sum)) => match self.views.get(&sum) {
                Some(view) => (*view, true),
                None => (self.result(sum)?, false),
            },
            (None, None) => (self.result(id)?, false),
        };
        let (m, k) = match transpose_a {
            true => (a.columns, a.rows),
            false => (a.rows, a.columns),
        };
        self.plan.steps.push(Step::Gemm(Gemm {
            node: self.graph.node(id).name.clone(),
            a,
            transpose_a,
            b,
            transpose_b,
            c,
            m,
            n: c.columns,
            k,
            accumulate,
        }));
        Ok(())
    }

    pub(super) fn map(&mut self, id: NodeId) -> Result<(), CodegenError> {
        if self.known_scalar(id)?.is_some() || !self.stored.contains(&id) {
            return Ok(());
        }
        let mut builder = MapBuilder::default();
        let term = match self.graph.op(id).clone() {
            Op::WeightedSum(sum) if sum.factors.len() > MOST_PARTS => {
                let operands = self.graph.operands(id);
                let parts: Vec<_> = sum.factors.into_iter().zip(operands).collect();
                self.long_sum(id, &mut builder, &parts)?
            }
            _ => builder.node(self, id)?,
        };
        let shape = self.shape(id, &self.graph.ty(id).clone())?;
        let (columns, outer) = shape
            .split_last()
            .map_or((1, &shape[..]), |(n, outer)| (*n, outer));
        let rows = outer.iter().product();
        let stores = self.stores(id, term, rows, columns)?;
        let node = self.graph.node(id).name.clone();
        let map = builder.finish(node, rows, columns, stores);
        self.plan.steps.push(Step::Map(map));
        Ok(())
    }

    /// Where the term of `id` goes: to a value of its own if something reads that, and to the
    /// gradients that it is a part of.
    fn stores(
        &mut self,
        id: NodeId,
        term: usize,
        rows: usize,
        columns: usize,
    ) -> Result<Vec<Store>, CodegenError> {
        let mut stores = Vec::new();
        if self.is_read(id) {
            let to = self.result(id)?;
            let accumulate = false;
            stores.push(Store {
                term,
                to,
                accumulate,
            });
        }
        let like = View {
            value: 0,
            offset: 0,
            rows,
            columns,
            stride: columns,
        };
        for name in self.roots.sinks.get(&id).into_iter().flatten() {
            let to = self.gradient(name, like)?;
            let accumulate = true;
            stores.push(Store {
                term,
                to,
                accumulate,
            });
        }
        Ok(stores)
    }

    /// A sum of many parts: some at a time, each time with the sum of those before, in f32. The
    /// last term is left to the caller to store.
    pub(super) fn long_sum(
        &mut self,
        id: NodeId,
        last: &mut MapBuilder,
        parts: &[(f32, NodeId)],
    ) -> Result<usize, CodegenError> {
        let node = self.graph.node(id).name.clone();
        let mut carry = None;
        let mut rest = parts;
        while rest.len() > MOST_PARTS {
            let (some, others) = rest.split_at(MOST_PARTS);
            let mut builder = MapBuilder::default();
            let term = builder.sum(self, some, carry)?;
            let to = self.value(id, DType::F32, Place::Arena(0))?;
            let accumulate = false;
            let store = Store {
                term,
                to,
                accumulate,
            };
            let map = builder.finish(node.clone(), to.rows, to.columns, vec![store]);
            self.plan.steps.push(Step::Map(map));
            (carry, rest) = (Some(to), others);
        }
        last.sum(self, rest, carry)
    }

    pub(super) fn kernel(&mut self, id: NodeId, op: &Op) -> Result<(), CodegenError> {
        self.check_sequences(id, op)?;
        if self.paired(id)? {
            return Ok(());
        }
        let operands = self.operands(&self.graph.operands(id))?;
        let straight = self.straight(id)?;
        let accumulate = straight.is_some();
        let result = match straight {
            Some(gradient) => gradient,
            None => self.result(id)?,
        };
        self.push(
            id,
            Kernel::Op(op.clone()),
            operands,
            vec![result],
            accumulate,
        );
        Ok(())
    }

    pub(super) fn operands(&mut self, ids: &[NodeId]) -> Result<Vec<View>, CodegenError> {
        ids.iter().map(|o| self.view(*o)).collect()
    }

    pub(super) fn push(
        &mut self,
        id: NodeId,
        kernel: Kernel,
        operands: Vec<View>,
        results: Vec<View>,
        accumulate: bool,
    ) {
        self.plan.steps.push(Step::Kernel(KernelStep {
            node: self.graph.node(id).name.clone(),
            kernel,
            operands,
            results,
            accumulate,
        }));
    }

    /// Emits `id` together with the node that one kernel computes beside it, if there is one and
    /// all that the two need is there.
    pub(super) fn paired(&mut self, id: NodeId) -> Result<bool, CodegenError> {
        let Some(other) = self.pairs.of(id).filter(|o| !self.views.contains_key(o)) else {
            return Ok(false);
        };
        let (kernel, first, second) = match (self.graph.op(id), self.graph.op(other)) {
            (Op::AttentionTrain(op), _) => (Kernel::AttentionWithLse(op.clone()), id, other),
            (Op::KlDivergence(_), _) if self.is_known(other, 2)? => {
                (Kernel::KlDivergenceWithGrad, id, other)
            }
            (Op::CrossEntropy(_), _) if self.is_known(other, 2)? => {
                (Kernel::CrossEntropyWithGrad, id, other)
            }
            (Op::SquaredError(_), Op::SquaredErrorGrad(op)) if self.is_known(other, 2)? => {
                (Kernel::SquaredErrorWithGrad(op.clone()), id, other)
            }
            (Op::RmsNormGrad(op), _) => (Kernel::RmsNormGrads(op.clone()), id, other),
            (_, Op::RmsNormGrad(op)) => (Kernel::RmsNormGrads(op.clone()), other, id),
            _ => return Ok(false),
        };
        let operands = match kernel {
            Kernel::KlDivergenceWithGrad
            | Kernel::CrossEntropyWithGrad
            | Kernel::SquaredErrorWithGrad(_) => self.graph.operands(second),
            _ => self.graph.operands(first),
        };
        let source = |o| matches!(self.graph.op(o), Op::Weight(_) | Op::Input(_));
        let there = |o: &NodeId| self.views.contains_key(o) || source(*o);
        if !operands.iter().all(there) {
            return Ok(false);
        }
        let operands = self.operands(&operands)?;
        let results = vec![self.result(first)?, self.result(second)?];
        self.push(id, kernel, operands, results, false);
        Ok(true)
    }

    /// Whether an operand of `id` is a number that is known. It is one of the plan's values then.
    fn is_known(&mut self, id: NodeId, operand: usize) -> Result<bool, CodegenError> {
        let operand = self.graph.operands(id)[operand];
        Ok(self.known_scalar(operand)?.is_some())
    }

    pub(super) fn check_sequences(&self, id: NodeId, op: &Op) -> Result<(), CodegenError> {
        let seq_len = match op {
            Op::AttentionTrain(op) => op.seq_len,
            Op::AttentionLse(op) => op.seq_len,
            Op::AttentionTrainGrad(AttentionTrainGrad { seq_len, .. }) => *seq_len,
            _ => return Ok(()),
        };
        let tokens = self.options.tokens;
        match tokens.is_multiple_of(seq_len) {
            true => Ok(()),
            false => {
                let reason = format!("{tokens} tokens are not whole sequences of {seq_len}");
                Err(self.error(id, reason))
            }
        }
    }
}
