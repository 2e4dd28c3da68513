//! Random valid graphs over the whole op table.

mod layer;
mod makers;
mod train;

use std::collections::BTreeMap;

use rabitc_ir::ops::source::{Input, Weight};
use rabitc_ir::{DType, Dim, Graph, NodeId, Op, Tensor, Type};

use crate::support::Rng;

/// Tokens and rows of a step in which a random graph is evaluated.
pub const TOKENS: usize = 3;
pub const ROWS: usize = 2;
/// Every embedding table has at least this many rows, every token id is below.
const VOCAB: usize = 4;

/// A graph that grows by one op, and the operands it needs, a step.
pub struct Random {
    pub rng: Rng,
    pub graph: Graph,
    layers: usize,
}

/// The graph that these steps lead to: each an index into the op table and a seed. Some of its
/// nodes, chosen by the last seed, are outputs.
pub fn graph(steps: &[(usize, u64)]) -> Graph {
    let table = Op::table();
    let mut random = Random {
        rng: Rng(0),
        graph: Graph::new("random \"graph\"\n\\ünï"),
        layers: 0,
    };
    for (op, seed) in steps {
        random.rng = Rng(*seed);
        random.step(table[op % table.len()].name);
    }
    random.outputs();
    random.graph
}

impl Random {
    fn outputs(&mut self) {
        let all = self.graph.order().into_iter();
        let mut run_time: Vec<_> = all
            .filter(|id| !self.graph.op(*id).compile_time())
            .collect();
        if run_time.is_empty() {
            run_time.push(self.activation());
        }
        for i in 0..self.rng.between(1, 3) {
            let id = self.rng.pick(&run_time);
            let name = self.rng.pick(&["out", "a b", "\"", "\\n\n", "#%{", "é"]);
            self.graph.set_output(&format!("{name}{i}"), id);
        }
    }

    fn name(&mut self, hint: &str) -> String {
        let names = [hint, "l0.q_proj", "a/b-c_d.e+f", "größe", "7"];
        let name = self.rng.pick(&names);
        self.graph.fresh_name(name)
    }

    fn add(&mut self, op: impl Into<Op>, operands: &[NodeId]) -> NodeId {
        let op = op.into();
        let name = self.name(op.name());
        self.graph.add(&name, op, operands).expect("a valid node")
    }

    /// An existing node of this type and stage, more often than not.
    fn existing(&mut self, ty: &Type, compile_time: bool) -> Option<NodeId> {
        let graph = &self.graph;
        let fits: Vec<_> = graph
            .order()
            .into_iter()
            .filter(|id| graph.ty(*id) == ty && graph.op(*id).compile_time() == compile_time)
            .collect();
        match fits.is_empty() || self.rng.below(5) == 0 {
            true => None,
            false => Some(self.rng.pick(&fits)),
        }
    }

    fn input(&mut self, ty: Type) -> NodeId {
        let name = format!("x{}", self.graph.len());
        self.add(Input { name, ty }, &[])
    }

    /// A run-time value of this type.
    fn value(&mut self, ty: &Type) -> NodeId {
        let found = self.existing(ty, false);
        found.unwrap_or_else(|| self.input(ty.clone()))
    }

    /// A compile-time value of this type.
    fn weight(&mut self, dtype: DType, shape: &[usize]) -> NodeId {
        let ty = Type::fixed(dtype, shape);
        let found = self.existing(&ty, true);
        found.unwrap_or_else(|| {
            let name = format!("w\"{}", self.graph.len());
            self.add(Weight { name, ty }, &[])
        })
    }

    fn float(&mut self) -> DType {
        self.rng.pick(&[DType::F32, DType::F16, DType::BF16])
    }

    fn rows(&mut self) -> Dim {
        self.rng.pick(&[Dim::Tokens, Dim::Tokens, Dim::Rows])
    }

    /// Any activation `[T or R, d]` that is there, or a new one.
    fn activation(&mut self) -> NodeId {
        let graph = &self.graph;
        let is_activation = |ty: &Type| match (ty.dtype, ty.shape.as_slice()) {
            (DType::F32, [rows, Dim::Fixed(1..)]) => *rows != Dim::Fixed(0),
            _ => false,
        };
        let all = graph.order().into_iter();
        let found: Vec<_> = all
            .filter(|id| is_activation(graph.ty(*id)) && !graph.op(*id).compile_time())
            .collect();
        if !found.is_empty() && self.rng.below(4) > 0 {
            return self.rng.pick(&found);
        }
        let (rows, d) = (self.rows(), self.rng.between(1, 12));
        self.input(activation_type(rows, d))
    }

    /// The i32 input `kind` of as many elements as `rows` says. Its values are what
    /// [`step_inputs`] knows to be valid for that kind.
    fn indices(&mut self, kind: &str, rows: Dim) -> NodeId {
        let name = format!("{kind}.{rows}");
        let ty = Type::new(DType::I32, [rows]);
        let found = self.graph.find(&name);
        found.unwrap_or_else(|| {
            let input = Input {
                name: name.clone(),
                ty,
            };
            self.graph.add(&name, input, &[]).expect("a new name")
        })
    }

    /// Rows and channels of an activation.
    fn shape(&self, x: NodeId) -> (Dim, usize) {
        let ty = self.graph.ty(x);
        (ty.shape[0], ty.last().expect("an activation"))
    }
}

fn activation_type(rows: Dim, d: usize) -> Type {
    Type::new(DType::F32, [rows, Dim::Fixed(d)])
}

/// Values for every input of a random graph.
pub fn step_inputs(graph: &Graph) -> BTreeMap<String, Tensor> {
    let mut rng = Rng(1);
    let mut inputs = BTreeMap::new();
    for id in graph.order() {
        if let Op::Input(input) = graph.op(id) {
            let size = |d: &Dim| match d {
                Dim::Tokens => TOKENS,
                Dim::Rows => ROWS,
                Dim::Fixed(n) => *n,
            };
            let shape: Vec<_> = input.ty.shape.iter().map(size).collect();
            let value = match input.name.split('.').next() {
                Some("positions") => Tensor::i32(&shape, (0..shape[0] as i32).collect()),
                Some("ids") => Tensor::i32(&shape, vec![VOCAB as i32 - 1; shape[0]]),
                Some("rows") => Tensor::i32(&shape, vec![ROWS as i32 - 1; shape[0]]),
                _ => rng.any_tensor(&Type::fixed(input.ty.dtype, &shape)),
            };
            inputs.insert(input.name.clone(), value);
        }
    }
    inputs
}

/// Values for every weight of a random graph.
pub fn weights(graph: &Graph) -> BTreeMap<String, Tensor> {
    let mut rng = Rng(2);
    let ids = graph.order().into_iter();
    ids.filter_map(|id| match graph.op(id) {
        Op::Weight(w) => Some((w.name.clone(), rng.any_tensor(&w.ty))),
        _ => None,
    })
    .collect()
}
