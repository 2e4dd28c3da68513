//! Graph nodes to steps.

use std::collections::{HashMap, HashSet};

use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;
use rabitc_ir::{DType, Dim, Graph, NodeId, Op, Type};

use super::expand::{Roots, sums_of_products};
use super::fuse::{is_elementwise, readers, stored};
use super::lower_map::MapBuilder;
use super::pairs::Pairs;
use super::plan::Options;
use super::precision::{Precision, is_product};
use super::step::{Gemm, Kernel, KernelStep, Map, Place, Plan, Step, Store, Term, Value, View};
use crate::CodegenError;

/// Parts of a sum that one map adds up.
const MOST_PARTS: usize = 12;

/// A graph on its way to a plan.
pub(super) struct Lower<'a> {
    pub graph: &'a Graph,
    options: &'a Options,
    roots: &'a Roots,
    precision: Precision,
    readers: HashMap<NodeId, Vec<NodeId>>,
    /// Elementwise nodes that are stored.
    stored: HashSet<NodeId>,
    /// Products that are added to the sum that they are a part of.
    sums: HashMap<NodeId, NodeId>,
    pairs: Pairs,
    /// Where the results of nodes are, as far as they are there.
    pub views: HashMap<NodeId, View>,
    weights: HashMap<String, usize>,
    gradients: HashMap<String, usize>,
    /// Copies in the type that products read.
    converted: HashMap<View, View>,
    plan: Plan,
}

impl<'a> Lower<'a> {
    pub fn new(graph: &'a Graph, options: &'a Options, roots: &'a Roots) -> Self {
        let outputs: Vec<_> = roots.outputs.iter().map(|(_, id)| *id).collect();
        Lower {
            graph,
            options,
            roots,
            precision: Precision::new(graph, &roots.live, options.storage, &outputs),
            readers: readers(graph, &roots.live),
            stored: stored(graph, &roots.live, &roots.ends()),
            sums: sums_of_products(graph, roots),
            pairs: Pairs::new(graph, &roots.live),
            views: HashMap::new(),
            weights: HashMap::new(),
            gradients: HashMap::new(),
            converted: HashMap::new(),
            plan: Plan {
                values: Vec::new(),
                steps: Vec::new(),
                outputs: Vec::new(),
                arena: 0,
            },
        }
    }

    /// The steps, their values not placed yet.
    pub fn run(mut self) -> Result<Plan, CodegenError> {
        for id in &self.roots.live {
            self.node(*id)?;
            if !self.goes_straight(*id) && !self.is_map(*id) {
                self.accumulate(*id)?;
            }
        }
        for (name, id) in &self.roots.outputs {
            let view = self.views[id];
            let whole = self.plan.values[view.value].columns == view.columns && view.offset == 0;
            let arena = matches!(self.plan.values[view.value].place, Place::Arena(_));
            let value = match whole && arena {
                true => view.value,
                false => {
                    self.copy(self.graph.node(*id).name.clone(), view, DType::F32)?
                        .value
                }
            };
            self.plan.outputs.push((name.clone(), value));
        }
        Ok(self.plan)
    }

    fn node(&mut self, id: NodeId) -> Result<(), CodegenError> {
        if self.views.contains_key(&id) {
            return Ok(());
        }
        let op = self.graph.op(id).clone();
        match &op {
            Op::Input(_) | Op::Weight(_) | Op::Const(_) => self.source(id).map(|_| ()),
            Op::Slice(slice) => {
                let x = self.view(self.graph.operands(id)[0])?;
                self.views.insert(id, x.slice(slice.start, slice.len));
                Ok(())
            }
            op if is_product(op) => self.product(id),
            op if is_elementwise(op) => self.map(id),
            op if is_supported(op) => self.kernel(id, op),
            op => Err(self.error(id, format!("a training step cannot contain {}", op.name()))),
        }
    }

    /// An error that names the node.
    pub fn error(&self, id: NodeId, reason: impl std::fmt::Display) -> CodegenError {
        CodegenError::plan(format!("%{}: {reason}", self.graph.node(id).name))
    }

    /// The sizes of a type.
    fn shape(&self, id: NodeId, ty: &Type) -> Result<Vec<usize>, CodegenError> {
        let sizes = ty.shape.iter().map(|dim| match dim {
            Dim::Fixed(n) => Ok(*n),
            Dim::Tokens => Ok(self.options.tokens),
            Dim::Rows => Err(self.error(id, "a training step has logits for every token")),
        });
        sizes.collect()
    }

    /// A new value, `place` as it is known so far.
    fn value(&mut self, id: NodeId, dtype: DType, place: Place) -> Result<View, CodegenError> {
        let name = self.graph.node(id).name.clone();
        let shape = self.shape(id, &self.graph.ty(id).clone())?;
        self.named_value(name, &shape, dtype, place)
    }

    fn named_value(
        &mut self,
        name: String,
        shape: &[usize],
        dtype: DType,
        place: Place,
    ) -> Result<View, CodegenError> {
        let (columns, outer) = shape.split_last().map_or((1, shape), |(n, o)| (*n, o));
        let rows = outer.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
        let bytes = rows.and_then(|r| r.checked_mul(columns)?.checked_mul(8));
        let (Some(rows), Some(_)) = (rows, bytes) else {
            return Err(CodegenError::plan(format!("%{name}: the size overflows")));
        };
        self.plan.values.push(Value {
            name,
            dtype,
            rows,
            columns,
            shape: shape.to_vec(),
            place,
        });
        Ok(View {
            value: self.plan.values.len() - 1,
            offset: 0,
            rows,
            columns,
            stride: columns,
        })
    }

    /// A new value of the arena for the result of `id`.
    fn result(&mut self, id: NodeId) -> Result<View, CodegenError> {
        let dtype = self.precision.of(self.graph, id);
        let view = self.value(id, dtype, Place::Arena(0))?;
        self.views.insert(id, view);
        Ok(view)
    }

    fn source(&mut self, id: NodeId) -> Result<View, CodegenError> {
        let ty = self.graph.ty(id).clone();
        let (place, known) = match self.graph.op(id) {
            Op::Weight(weight) => {
                let known = self.weights.get(&weight.name).copied();
                (Place::Weight(weight.name.clone()), known)
            }
            Op::Input(input) if ty.dtype == DType::I32 && ty.rank() == 1 => {
                (Place::Input(input.name.clone()), None)
            }
            Op::Const(constant) => (Place::Constant(constant.data.clone()), None),
            _ => return Err(self.error(id, format!("an input must be i32[n], found {ty}"))),
        };
        if matches!(place, Place::Weight(_)) && !ty.dtype.is_float() {
            return Err(self.error(id, format!("a weight must be of floats, found {ty}")));
        }
        let mut view = self.value(id, ty.dtype, place.clone())?;
        match (place, known) {
            (Place::Weight(_), Some(value)) => {
                self.plan.values.pop();
                view.value = value;
            }
            (Place::Weight(name), None) => {
                self.weights.insert(name, view.value);
            }
            _ => {}
        }
        self.views.insert(id, view);
        Ok(view)
    }

    /// Where the result of `id` is.
    pub fn view(&mut self, id: NodeId) -> Result<View, CodegenError> {
        if let Some(view) = self.views.get(&id) {
            return Ok(*view);
        }
        match self.graph.op(id) {
            Op::Input(_) | Op::Weight(_) | Op::Const(_) => self.source(id),
            _ => Err(self.error(id, "it is read before it is computed: a defect of the plan")),
        }
    }

    /// The gradient held for a weight, as `like` is shaped.
    fn gradient(&mut self, name: &str, like: View) -> Result<View, CodegenError> {
        if let Some(value) = self.gradients.get(name) {
            return Ok(View {
                value: *value,
                offset: 0,
                stride: like.columns,
                ..like
            });
        }
        let shape = [like.rows, like.columns];
        let place = Place::Gradient(name.to_string());
        let view = self.named_value(format!("grad.{name}"), &shape, DType::F32, place)?;
        self.gradients.insert(name.to_string(), view.value);
        Ok(view)
    }

    /// Whether only an elementwise step computes it.
    fn is_map(&self, id: NodeId) -> bool {
        is_elementwise(self.graph.op(id)) && self.constant(id).is_none()
    }

    fn is_output(&self, id: NodeId) -> bool {
        self.roots.outputs.iter().any(|(_, o)| *o == id)
    }

    /// Whether something reads the result of `id` itself.
    fn is_read(&self, id: NodeId) -> bool {
        self.readers.contains_key(&id) || self.is_output(id)
    }

    /// Whether `id` is computed straight into the one gradient that it is added to.
    fn goes_straight(&self, id: NodeId) -> bool {
        let op = self.graph.op(id);
        let adds = is_product(op) || matches!(op, Op::ScatterAdd(_));
        let once = self.roots.sinks.get(&id).is_some_and(|s| s.len() == 1);
        adds && once && !self.is_read(id)
    }

    /// Where `id` is computed to if it goes straight into a gradient.
    fn straight(&mut self, id: NodeId) -> Result<Option<View>, CodegenError> {
        if !self.goes_straight(id) {
            return Ok(None);
        }
        let shape = self.shape(id, &self.graph.ty(id).clone())?;
        let like = View {
            value: 0,
            offset: 0,
            rows: shape[..shape.len() - 1].iter().product(),
            columns: shape[shape.len() - 1],
            stride: shape[shape.len() - 1],
        };
        let name = self.roots.sinks[&id][0].clone();
        self.gradient(&name, like).map(Some)
    }

    /// Adds the result of `id` to the gradients that it is a part of.
    fn accumulate(&mut self, id: NodeId) -> Result<(), CodegenError> {
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

    fn load(&mut self, node: String, from: View, stores: Vec<Store>) {
        self.plan.steps.push(Step::Map(Map {
            node,
            rows: from.rows,
            columns: from.columns,
            operands: vec![from],
            terms: vec![Term::Load { operand: 0 }],
            stores,
        }));
    }

    /// A copy of `from` as another type.
    fn copy(&mut self, name: String, from: View, dtype: DType) -> Result<View, CodegenError> {
        let shape = [from.rows, from.columns];
        let to = self.named_value(name.clone(), &shape, dtype, Place::Arena(0))?;
        let (term, accumulate) = (0, false);
        let store = Store {
            term,
            to,
            accumulate,
        };
        self.load(name, from, vec![store]);
        Ok(to)
    }

    /// What a product reads for `id`: its result, in the type that products read.
    fn factor(&mut self, id: NodeId) -> Result<View, CodegenError> {
        let from = self.view(id)?;
        let (dtype, storage) = (self.plan.values[from.value].dtype, self.options.storage);
        if dtype == storage {
            return Ok(from);
        }
        if let Some(copy) = self.converted.get(&from) {
            return Ok(*copy);
        }
        let name = format!("{} as {storage}", self.graph.node(id).name);
        let copy = self.copy(name, from, storage)?;
        self.converted.insert(from, copy);
        Ok(copy)
    }

    fn product(&mut self, id: NodeId) -> Result<(), CodegenError> {
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

    /// The number that a scalar node always has, if it has one.
    pub fn constant(&self, id: NodeId) -> Option<f32> {
        match self.graph.op(id) {
            Op::Const(constant) if constant.data.len() == 1 => Some(constant.data[0]),
            Op::WeightedSum(sum) => {
                let operands = self.graph.operands(id).into_iter();
                let terms = operands.zip(&sum.factors).map(|(operand, factor)| {
                    Some(f64::from(self.constant(operand)?) * f64::from(*factor))
                });
                Some(terms.sum::<Option<f64>>()? as f32)
            }
            _ => None,
        }
    }

    /// The view of a scalar that is constant.
    fn known_scalar(&mut self, id: NodeId) -> Result<Option<View>, CodegenError> {
        let Some(number) = self.constant(id) else {
            return Ok(None);
        };
        if !self.views.contains_key(&id) {
            let view = self.value(id, DType::F32, Place::Constant(vec![number]))?;
            self.views.insert(id, view);
        }
        self.view(id).map(Some)
    }

    fn map(&mut self, id: NodeId) -> Result<(), CodegenError> {
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
        let mut stores = Vec::new();
        let mut like = None;
        if self.is_read(id) {
            let to = self.result(id)?;
            let accumulate = false;
            stores.push(Store {
                term,
                to,
                accumulate,
            });
            like = Some(to);
        }
        let shape = self.shape(id, &self.graph.ty(id).clone())?;
        let (columns, outer) = shape.split_last().map_or((1, &shape[..]), |(n, o)| (*n, o));
        let (rows, stride) = (outer.iter().product(), columns);
        let like = like.unwrap_or(View {
            value: 0,
            offset: 0,
            rows,
            columns,
            stride,
        });
        for name in self.roots.sinks.get(&id).into_iter().flatten() {
            let to = self.gradient(name, like)?;
            let accumulate = true;
            stores.push(Store {
                term,
                to,
                accumulate,
            });
        }
        let node = self.graph.node(id).name.clone();
        let map = builder.finish(node, rows, columns, stores);
        self.plan.steps.push(Step::Map(map));
        Ok(())
    }

    /// A sum of many parts: some at a time, each time with the sum of those before, in f32. The
    /// last term is left to the caller to store.
    fn long_sum(
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

    fn kernel(&mut self, id: NodeId, op: &Op) -> Result<(), CodegenError> {
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

    fn operands(&mut self, ids: &[NodeId]) -> Result<Vec<View>, CodegenError> {
        ids.iter().map(|o| self.view(*o)).collect()
    }

    fn push(
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
    fn paired(&mut self, id: NodeId) -> Result<bool, CodegenError> {
        let Some(other) = self.pairs.of(id).filter(|o| !self.views.contains_key(o)) else {
            return Ok(false);
        };
        let (kernel, first, second) = match (self.graph.op(id), self.graph.op(other)) {
            (Op::AttentionTrain(op), _) => (Kernel::AttentionWithLse(op.clone()), id, other),
            (Op::KlDivergence(_), _) => {
                let dloss = self.graph.operands(other)[2];
                if self.known_scalar(dloss)?.is_none() {
                    return Ok(false);
                }
                (Kernel::KlDivergenceWithGrad, id, other)
            }
            (Op::RmsNormGrad(op), _) => (Kernel::RmsNormGrads(op.clone()), id, other),
            (_, Op::RmsNormGrad(op)) => (Kernel::RmsNormGrads(op.clone()), other, id),
            _ => return Ok(false),
        };
        let operands = match kernel {
            Kernel::KlDivergenceWithGrad => self.graph.operands(second),
            _ => self.graph.operands(first),
        };
        let there =
            |o: &NodeId| self.views.contains_key(o) || matches!(self.graph.op(*o), Op::Weight(_));
        if !operands.iter().all(there) {
            return Ok(false);
        }
        let operands = self.operands(&operands)?;
        let results = vec![self.result(first)?, self.result(second)?];
        self.push(id, kernel, operands, results, false);
        Ok(true)
    }

    fn check_sequences(&self, id: NodeId, op: &Op) -> Result<(), CodegenError> {
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

/// Whether a step of its own computes it.
fn is_supported(op: &Op) -> bool {
    matches!(
        op,
        Op::Embed(_)
            | Op::RmsNorm(_)
            | Op::RmsNormGrad(_)
            | Op::RmsNormWeightGrad(_)
            | Op::RopeTable(_)
            | Op::Rope(_)
            | Op::RopeGrad(_)
            | Op::AttentionTrain(_)
            | Op::AttentionLse(_)
            | Op::AttentionTrainGrad(_)
            | Op::KlDivergence(_)
            | Op::KlDivergenceGrad(_)
            | Op::CrossEntropy(_)
            | Op::CrossEntropyGrad(_)
            | Op::SquaredError(_)
            | Op::SquaredErrorGrad(_)
            | Op::EffectiveWeight(_)
            | Op::EffectiveScaleGrad(_)
            | Op::ScatterAdd(_)
            | Op::SumRows(_)
    )
}
