//! Random models of one block, in odd shapes.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rabitc::compile::code::BackendChoice;
use rabitc_ir::ops::attention::Attention;
use rabitc_ir::ops::elementwise::{Add, AddBias, GeluTanh, Mul, Silu, Softcap};
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rope::{Rope, RopeTable};
use rabitc_ir::ops::select_rows::SelectRows;
use rabitc_ir::ops::source::{Const, Input as Source, Weight};
use rabitc_ir::{DType, Data, Dim, Graph, NodeId, Op, Tensor, Type};
use rabitc_passes::HeadForm;
use rabitc_rbx::Level;

/// The shape of a random model.
#[derive(Clone, Debug)]
pub struct Shape {
    pub hidden: usize,
    pub ffn: usize,
    pub kv_heads: usize,
    pub group: usize,
    pub half_head: usize,
    pub vocab: usize,
    pub window: usize,
    pub softcap: f32,
    pub dtype: DType,
    pub gelu: bool,
    pub bias: bool,
    pub unit_offset: bool,
    pub paths: usize,
    pub head: HeadForm,
    pub keep_dense: bool,
    pub activations: Activations,
    pub level: Level,
    pub backend: BackendChoice,
    pub threads: usize,
    pub seed: u64,
}

/// Any shape.
pub fn shapes() -> impl Strategy<Value = Shape> {
    let sizes = (
        1usize..300,
        1usize..600,
        1usize..4,
        1usize..4,
        1usize..20,
        2usize..90,
    );
    let options = (
        prop_oneof![Just(0usize), 1usize..9],
        prop_oneof![Just(0.0f32), 1.0f32..30.0],
        prop::sample::select(vec![DType::F32, DType::F16, DType::BF16]),
        any::<(bool, bool, bool)>(),
        1usize..5,
        prop_oneof![
            Just(HeadForm::AsStored),
            Just(HeadForm::Bf16),
            Just(HeadForm::Int8),
            (1usize..4).prop_map(HeadForm::Paths)
        ],
    );
    let build = (
        prop::bool::weighted(0.25),
        prop::sample::select(vec![
            Activations::Int8,
            Activations::Int16,
            Activations::F32,
        ]),
        prop::sample::select(levels()),
        prop::sample::select(vec![BackendChoice::Cranelift, BackendChoice::Auto]),
        1usize..4,
        any::<u64>(),
    );
    (sizes, options, build).prop_map(|(s, o, b)| Shape {
        hidden: s.0,
        ffn: s.1,
        kv_heads: s.2,
        group: s.3,
        half_head: s.4,
        vocab: s.5,
        window: o.0,
        softcap: o.1,
        dtype: o.2,
        gelu: o.3.0,
        bias: o.3.1,
        unit_offset: o.3.2,
        paths: o.4,
        head: o.5,
        keep_dense: b.0,
        activations: b.1,
        level: b.2,
        backend: b.3,
        threads: b.4,
        seed: b.5,
    })
}

/// The levels of this architecture that this machine runs.
fn levels() -> Vec<Level> {
    let native = Level::native().expect("this machine has a CPU level");
    let runs = Level::ALL.into_iter().filter(|l| native.supports(*l));
    runs.collect()
}

/// Builds a model's graph and fills its weights with random numbers.
struct Maker {
    graph: Graph,
    weights: BTreeMap<String, Tensor>,
    state: u64,
    dtype: DType,
}

impl Maker {
    /// A number in −1..1 (SplitMix64).
    fn random(&mut self) -> f32 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn weight(&mut self, name: &str, shape: &[usize], scale: f32) -> NodeId {
        let n = shape.iter().product();
        let data: Vec<f32> = (0..n).map(|_| self.random() * scale).collect();
        let exact = Tensor {
            dtype: self.dtype,
            shape: shape.to_vec(),
            data: Data::F32(data),
        };
        let stored = exact.to_le_bytes();
        let tensor = Tensor::from_le_bytes(self.dtype, shape, &stored).expect("its own bytes");
        let op = Weight {
            name: name.to_string(),
            ty: tensor.ty(),
        };
        self.weights.insert(name.to_string(), tensor);
        self.add(name, op, &[])
    }

    fn add(&mut self, name: &str, op: impl Into<Op>, operands: &[NodeId]) -> NodeId {
        self.graph.add(name, op, operands).expect("a valid node")
    }

    fn source(&mut self, name: &str, rows: Dim) -> NodeId {
        let op = Source {
            name: name.to_string(),
            ty: Type::new(DType::I32, [rows]),
        };
        self.add(name, op, &[])
    }

    fn linear(&mut self, name: &str, x: NodeId, d_out: usize, bias: bool) -> NodeId {
        let d_in = self.graph.ty(x).last().expect("a known width");
        let scale = 2.0 / (d_in as f32).sqrt();
        let w = self.weight(&format!("{name}.weight"), &[d_out, d_in], scale);
        if !bias {
            return self.add(name, Linear {}, &[x, w]);
        }
        let y = self.add(name, Linear {}, &[x, w]);
        let b = self.weight(&format!("{name}.bias"), &[d_out], 0.5);
        self.add(&format!("{name}.biased"), AddBias {}, &[y, b])
    }
}

/// The graph of a model of one block, and its weights.
pub fn model(s: &Shape) -> (Graph, BTreeMap<String, Tensor>) {
    let mut m = Maker {
        graph: Graph::new("random"),
        weights: BTreeMap::new(),
        state: s.seed,
        dtype: s.dtype,
    };
    let ids = m.source("ids", Dim::Tokens);
    let positions = m.source("positions", Dim::Tokens);
    let rows = m.source("rows", Dim::Rows);
    let head_dim = s.half_head * 2;
    let table = m.weight("embed.weight", &[s.vocab, s.hidden], 1.0);
    let x = m.add("embed", Embed { scale: 1.5 }, &[table, ids]);
    let freq: Vec<f32> = (0..s.half_head).map(|i| 1.0 / (i + 1) as f32).collect();
    let ty = Type::fixed(DType::F32, &[s.half_head]);
    let freq = m.add("inv_freq", Const { ty, data: freq }, &[]);
    let table = m.add(
        "angles",
        RopeTable {
            attention_factor: 1.1,
        },
        &[positions, freq],
    );
    let norm_op = RmsNorm {
        eps: 1e-5,
        unit_offset: s.unit_offset,
    };
    let norm = m.weight("norm1.weight", &[s.hidden], 1.0);
    let n = m.add("norm1", norm_op.clone(), &[x, norm]);
    let (q_width, kv_width) = (s.kv_heads * s.group * head_dim, s.kv_heads * head_dim);
    let q = m.linear("q", n, q_width, s.bias);
    let k = m.linear("k", n, kv_width, s.bias);
    let v = m.linear("v", n, kv_width, false);
    let q_norm = m.weight("q_norm.weight", &[head_dim], 1.0);
    let q = m.add("q_norm", norm_op.clone(), &[q, q_norm]);
    let (q, k) = (
        m.add("q_rope", Rope {}, &[q, table]),
        m.add("k_rope", Rope {}, &[k, table]),
    );
    let attention = Attention {
        n_heads: s.kv_heads * s.group,
        n_kv_heads: s.kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window: s.window,
        softcap: s.softcap,
        layer: 0,
    };
    let a = m.add("attention", attention, &[q, k, v, positions]);
    let o = m.linear("o", a, s.hidden, false);
    let x = m.add("x1", Add {}, &[x, o]);
    let norm = m.weight("norm2.weight", &[s.hidden], 1.0);
    let n = m.add("norm2", norm_op, &[x, norm]);
    let (gate, up) = (
        m.linear("gate", n, s.ffn, false),
        m.linear("up", n, s.ffn, false),
    );
    let act = match s.gelu {
        true => m.add("act", GeluTanh {}, &[gate]),
        false => m.add("act", Silu {}, &[gate]),
    };
    let gated = m.add("gated", Mul {}, &[act, up]);
    let down = m.linear("down", gated, s.hidden, s.bias);
    let x = m.add("x2", Add {}, &[x, down]);
    let x = m.add("last", SelectRows {}, &[x, rows]);
    let mut logits = m.linear("lm_head", x, s.vocab, false);
    if s.softcap > 0.0 {
        logits = m.add("logits", Softcap { cap: s.softcap }, &[logits]);
    }
    m.graph.set_output("logits", logits);
    (m.graph, m.weights)
}

/// As small as a model can be, with nothing special.
pub fn plain() -> Shape {
    Shape {
        hidden: 1,
        ffn: 1,
        kv_heads: 1,
        group: 1,
        half_head: 1,
        vocab: 2,
        window: 0,
        softcap: 0.0,
        dtype: DType::BF16,
        gelu: false,
        bias: false,
        unit_offset: false,
        paths: 1,
        head: HeadForm::Paths(1),
        keep_dense: false,
        activations: Activations::Int8,
        level: levels()[0],
        backend: BackendChoice::Auto,
        threads: 2,
        seed: 1,
    }
}
