//! What a plan is made of.

use rabitc_ir::ops::attention_train::AttentionTrain;
use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rms_norm_grad::RmsNormGrad;
use rabitc_ir::ops::squared_error::SquaredErrorGrad;
use rabitc_ir::{DType, Op};

/// A training graph, planned for one number of tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Everything that steps read or write.
    pub values: Vec<Value>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// Outputs that are read back, by name. Gradients of what is trained are not among them: they
    /// are added to the gradients held.
    pub outputs: Vec<(String, usize)>,
    /// Bytes of the arena that intermediate values lie in.
    pub arena: usize,
}

/// A tensor that steps read or write.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// The graph's node that it is the result of, or where it comes from.
    pub name: String,
    /// The element type that it is stored as.
    pub dtype: DType,
    /// Rows: the product of all dimensions but the last.
    pub rows: usize,
    /// Columns: the last dimension.
    pub columns: usize,
    /// The shape in the graph.
    pub shape: Vec<usize>,
    /// Where it lies.
    pub place: Place,
}

impl Value {
    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.rows * self.columns * self.dtype.bits() / 8
    }
}

/// Where a value lies.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// The weight of that name.
    Weight(String),
    /// The gradient held for the weight of that name, f32: steps add to it.
    Gradient(String),
    /// The input of that name.
    Input(String),
    /// Elements that are known.
    Constant(Vec<f32>),
    /// This many bytes into the arena.
    Arena(usize),
}

/// Some columns of a value, as a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// Which of [`Plan::values`].
    pub value: usize,
    /// Elements before the first.
    pub offset: usize,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
    /// Elements from one row to the next.
    pub stride: usize,
}

impl View {
    /// Columns `start..start + len` of this view.
    pub fn slice(self, start: usize, len: usize) -> View {
        View {
            offset: self.offset + start,
            columns: len,
            ..self
        }
    }

    /// Whether its elements lie one after the other.
    pub fn is_dense(&self) -> bool {
        self.stride == self.columns || self.rows <= 1
    }
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A dense product.
    Gemm(Gemm),
    /// Functions of single elements.
    Map(Map),
    /// Anything else.
    Kernel(KernelStep),
}

impl Step {
    /// What it reads, results that it adds to not included.
    pub fn operands(&self) -> Vec<View> {
        match self {
            Step::Gemm(gemm) => vec![gemm.a, gemm.b],
            Step::Map(map) => map.operands.clone(),
            Step::Kernel(kernel) => kernel.operands.clone(),
        }
    }

    /// What it writes or adds to.
    pub fn results(&self) -> Vec<View> {
        match self {
            Step::Gemm(gemm) => vec![gemm.c],
            Step::Map(map) => map.stores.iter().map(|s| s.to).collect(),
            Step::Kernel(kernel) => kernel.results.clone(),
        }
    }

    /// The graph's node that it computes.
    pub fn node(&self) -> &str {
        match self {
            Step::Gemm(gemm) => &gemm.node,
            Step::Map(map) => &map.node,
            Step::Kernel(kernel) => &kernel.node,
        }
    }
}

/// c = op(a) op(b), or c += that; op transposes where the flag says so. All row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Gemm {
    /// The graph's node.
    pub node: String,
    /// `[m, k]`, or `[k, m]` if transposed.
    pub a: View,
    /// Whether a is read transposed.
    pub transpose_a: bool,
    /// `[k, n]`, or `[n, k]` if transposed.
    pub b: View,
    /// Whether b is read transposed.
    pub transpose_b: bool,
    /// `[m, n]`.
    pub c: View,
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Whether the product is added to what c holds.
    pub accumulate: bool,
}

/// Functions of the elements of some operands at one place.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// The graph's node, the first if there are several.
    pub node: String,
    /// Rows of every result.
    pub rows: usize,
    /// Columns of every result.
    pub columns: usize,
    /// What is read.
    pub operands: Vec<View>,
    /// The computation in f32: each term reads terms before it.
    pub terms: Vec<Term>,
    /// Which terms are stored.
    pub stores: Vec<Store>,
}

/// A term that is stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Store {
    /// Which of [`Map::terms`].
    pub term: usize,
    /// Where to.
    pub to: View,
    /// Whether it is added to what is there.
    pub accumulate: bool,
}

/// One operation of a [`Map`], on numbers that are f32; `usize` fields name terms before it unless
/// said otherwise.
#[derive(Clone, Debug, PartialEq)]
pub enum Term {
    /// Element (row, column) of operand `operand`.
    Load {
        /// Which operand.
        operand: usize,
    },
    /// Element (0, column) of operand `operand`: the same for all rows.
    Column {
        /// Which operand.
        operand: usize,
    },
    /// Element (row, column − start) of operand `operand`, or 0 where it has no such column.
    Padded {
        /// Which operand.
        operand: usize,
        /// The column that its first one comes to.
        start: usize,
    },
    /// a + b.
    Add(usize, usize),
    /// a · b.
    Mul(usize, usize),
    /// Σ factor · term.
    Sum(Vec<(f32, usize)>),
    /// act(x).
    Act(Activation, usize),
    /// act′(x).
    ActSlope(Activation, usize),
    /// cap · tanh(x / cap).
    Softcap(f32, usize),
    /// 1 − tanh²(x / cap).
    SoftcapSlope(f32, usize),
    /// x rounded to a float type.
    Round(DType, usize),
}

impl Term {
    /// The terms that it reads.
    pub fn reads(&self) -> Vec<usize> {
        match self {
            Term::Load { .. } | Term::Column { .. } | Term::Padded { .. } => Vec::new(),
            Term::Add(a, b) | Term::Mul(a, b) => vec![*a, *b],
            Term::Sum(parts) => parts.iter().map(|(_, term)| *term).collect(),
            Term::Act(_, x)
            | Term::ActSlope(_, x)
            | Term::Softcap(_, x)
            | Term::SoftcapSlope(_, x)
            | Term::Round(_, x) => vec![*x],
        }
    }

    /// The same with other numbers for the terms and operands that it names.
    pub fn renumbered(
        &self,
        term: impl Fn(usize) -> usize,
        operand: impl Fn(usize) -> usize,
    ) -> Term {
        match self.clone() {
            Term::Load { operand: o } => Term::Load {
                operand: operand(o),
            },
            Term::Column { operand: o } => Term::Column {
                operand: operand(o),
            },
            Term::Padded { operand: o, start } => Term::Padded {
                operand: operand(o),
                start,
            },
            Term::Add(a, b) => Term::Add(term(a), term(b)),
            Term::Mul(a, b) => Term::Mul(term(a), term(b)),
            Term::Sum(parts) => Term::Sum(parts.into_iter().map(|(f, t)| (f, term(t))).collect()),
            Term::Act(act, x) => Term::Act(act, term(x)),
            Term::ActSlope(act, x) => Term::ActSlope(act, term(x)),
            Term::Softcap(cap, x) => Term::Softcap(cap, term(x)),
            Term::SoftcapSlope(cap, x) => Term::SoftcapSlope(cap, term(x)),
            Term::Round(to, x) => Term::Round(to, term(x)),
        }
    }
}

/// A step that is neither a product nor a function of single elements.
#[derive(Clone, Debug, PartialEq)]
pub struct KernelStep {
    /// The graph's node.
    pub node: String,
    /// What is computed.
    pub kernel: Kernel,
    /// What it reads, in the order that [`Kernel`] says.
    pub operands: Vec<View>,
    /// What it writes.
    pub results: Vec<View>,
    /// Whether the result is added to what is there; of `scatter_add` alone.
    pub accumulate: bool,
}

/// What a [`KernelStep`] computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Kernel {
    /// One op: its operands, its result.
    Op(Op),
    /// Attention and the logarithms of its sums: q, k, v; y, lse.
    AttentionWithLse(AttentionTrain),
    /// The divergence and its gradient: teacher, student, dloss; loss, dstudent.
    KlDivergenceWithGrad,
    /// Cross-entropy and its gradient: logits, labels, dloss; loss, dlogits.
    CrossEntropyWithGrad,
    /// A squared error and its gradient: x, target, dloss; loss, dx.
    SquaredErrorWithGrad(SquaredErrorGrad),
    /// Both gradients of a norm whose weight spans whole groups: x, weight, dy; dx, dweight.
    RmsNormGrads(RmsNormGrad),
    /// A map and the norm of the first of its results: the map's operands, weight; the map's results,
    /// y.
    RmsNormOfMap(RmsNorm, Box<Map>),
    /// Both gradients of a norm and a map whose first operand is that of x, which is not stored: x,
    /// weight, dy, the map's other operands; dweight, the map's results.
    RmsNormGradsInMap(RmsNormGrad, Box<Map>),
}

impl Kernel {
    /// Its name: that of the op, or of the first op with what else it does.
    pub fn name(&self) -> &'static str {
        match self {
            Kernel::Op(op) => op.name(),
            Kernel::AttentionWithLse(_) => "attention_train_with_lse",
            Kernel::KlDivergenceWithGrad => "kl_divergence_with_grad",
            Kernel::CrossEntropyWithGrad => "cross_entropy_with_grad",
            Kernel::SquaredErrorWithGrad(_) => "squared_error_with_grad",
            Kernel::RmsNormGrads(_) => "rms_norm_grads",
            Kernel::RmsNormOfMap(..) => "rms_norm_of_map",
            Kernel::RmsNormGradsInMap(..) => "rms_norm_grads_in_map",
        }
    }
}
