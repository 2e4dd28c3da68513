//! Graph nodes to steps.

mod map;
mod steps;
mod values;

use std::collections::{HashMap, HashSet};

use rabitc_ir::{DType, Dim, Graph, NodeId, Op, Type};

use super::expand::{Roots, sums_of_products};
use super::fuse::{is_elementwise, readers, stored};
use super::pairs::Pairs;
use super::plan::Options;
use super::precision::{Precision, is_product};
use super::step::{Place, Plan, View};
use crate::CodegenError;

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
            | Op::Sample(_)
            | Op::SquaredError(_)
            | Op::SquaredErrorGrad(_)
            | Op::EffectiveWeight(_)
            | Op::EffectiveScaleGrad(_)
            | Op::ScatterAdd(_)
            | Op::SumRows(_)
    )
}
