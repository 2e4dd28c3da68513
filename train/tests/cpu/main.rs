//! The engine on the CPU against the reference interpreter.

mod bounds;
mod errors;
mod model;
mod ops;
mod optimizer;
mod step;

use std::collections::BTreeMap;

use rabitc_ir::ops::slice::Slice;
use rabitc_ir::ops::source::{Input, Weight};
use rabitc_ir::{DType, Graph, Interpreter, NodeId, Op, Tensor, Type};
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::Engine;

/// Tensors by name.
pub type Values = BTreeMap<String, Tensor>;

/// Numbers in −1..1 by SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A random f32 tensor.
    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        let number = |_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        let data = (0..shape.iter().product()).map(number).collect();
        Tensor::f32(shape, data)
    }
}

/// An operand of a node under test.
#[derive(Clone, Debug)]
pub enum Operand {
    /// Random numbers of a shape.
    Float(Vec<usize>),
    /// As many columns of a matrix that has some more.
    Columns(usize, usize),
    /// Integers, an input.
    Ints(Vec<i32>),
    /// What a node before computed.
    Node(NodeId),
}

/// A graph that is put together with random weights.
pub struct Subject {
    /// What is tested.
    pub graph: Graph,
    /// Its weights.
    pub store: Values,
    /// Its inputs.
    pub inputs: Values,
    /// Tokens of a run, for ops that ask.
    pub tokens: usize,
    rng: Rng,
}

impl Subject {
    /// An empty graph.
    pub fn new(seed: u64) -> Self {
        Subject {
            graph: Graph::new("test"),
            store: Values::new(),
            inputs: Values::new(),
            tokens: 1,
            rng: Rng(seed),
        }
    }

    /// Adds a weight of random numbers.
    pub fn weight(&mut self, shape: &[usize]) -> NodeId {
        let name = self.graph.fresh_name("w");
        self.store.insert(name.clone(), self.rng.tensor(shape));
        let ty = Type::fixed(DType::F32, shape);
        let source = Weight {
            name: name.clone(),
            ty,
        };
        self.graph.add(&name, source, &[]).unwrap()
    }

    /// Adds an operand.
    pub fn operand(&mut self, operand: &Operand) -> NodeId {
        match operand {
            Operand::Float(shape) => self.weight(shape),
            Operand::Columns(rows, columns) => {
                let (rows, start, len) = (*rows, 3, *columns);
                let whole = self.weight(&[rows, len + 5]);
                let name = self.graph.fresh_name("slice");
                let slice = Slice { start, len };
                self.graph.add(&name, slice, &[whole]).unwrap()
            }
            Operand::Ints(ints) => {
                let name = self.graph.fresh_name("input");
                let ty = Type::fixed(DType::I32, &[ints.len()]);
                let value = Tensor::i32(&[ints.len()], ints.clone());
                self.inputs.insert(name.clone(), value);
                let source = Input {
                    name: name.clone(),
                    ty,
                };
                self.graph.add(&name, source, &[]).unwrap()
            }
            Operand::Node(id) => *id,
        }
    }

    /// Adds a node, and an output of its name and what it reads.
    pub fn node(&mut self, op: impl Into<Op>, operands: &[Operand]) -> NodeId {
        let op = op.into();
        let operands: Vec<_> = operands.iter().map(|o| self.operand(o)).collect();
        let name = self.graph.fresh_name(op.name());
        let id = self.graph.add(&name, op, &operands);
        let id = id.unwrap_or_else(|e| panic!("{e}"));
        self.graph.set_output(&name, id);
        id
    }

    /// The interpreter's outputs, and the values of all nodes.
    pub fn expected(&self) -> Values {
        let mut graph = self.graph.clone();
        let outputs: Vec<_> = graph.outputs().iter().map(|(_, id)| *id).collect();
        for id in graph.order() {
            if !outputs.contains(&id) {
                graph.set_output(&graph.node(id).name.clone(), id);
            }
        }
        let mut interpreter = Interpreter::new(&graph, &self.store);
        interpreter
            .run(self.inputs.clone())
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// The engine's outputs.
    pub fn found(&self, threads: usize) -> Values {
        let mut engine = CpuEngine::new(Some(threads)).unwrap();
        for (name, value) in &self.store {
            engine.set_weight(name, value).unwrap();
        }
        let program = engine
            .program(&self.graph, self.tokens)
            .unwrap_or_else(|e| panic!("{e}"));
        let inputs = self.inputs.iter();
        let inputs: Vec<_> = inputs.map(|(n, t)| (n.as_str(), t.ints())).collect();
        engine
            .run(program, &inputs)
            .unwrap_or_else(|e| panic!("{e}"))
    }

    /// Compares all outputs, each within its bound.
    #[track_caller]
    pub fn check(&self) {
        let (expected, found) = (self.expected(), self.found(2));
        for (name, id) in self.graph.outputs() {
            let operands = self.graph.operands(*id).into_iter();
            let operands: Vec<_> = operands
                .map(|o| &expected[&self.graph.node(o).name])
                .collect();
            let (y, z) = (&expected[name], &found[name]);
            assert_eq!(y.shape, z.shape, "{name}");
            let bounds = bounds::bounds(self.graph.op(*id), &operands, y);
            for (i, bound) in bounds.into_iter().enumerate() {
                let (y, z) = (f64::from(y.floats()[i]), f64::from(z.floats()[i]));
                assert!(
                    (y - z).abs() <= bound,
                    "{name}[{i}] is {z}, expected {y} ± {bound:e}"
                );
            }
        }
        assert!(expected.keys().len() >= found.len() && !found.is_empty());
    }
}
