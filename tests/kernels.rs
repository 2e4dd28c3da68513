//! Every kernel against the reference interpreter, over random odd shapes.
//!
//! A random model of a few layers goes the whole way: passes, plan, code, artifact, runtime. Then
//! `verify` runs it launch by launch and compares every result with the interpreter's, within the
//! bound of its arithmetic.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rabitc::compile::code::BackendChoice;
use rabitc::compile::{Input, Options, Progress, Targets, assemble};
use rabitc::verify::verify;
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
use rabitc_passes::svid::Init;
use rabitc_rbx::Level;
use rabitc_runtime::pool::Pool;
use rabitc_runtime::{Device, Model, Session};

/// The shape of a random model.
#[derive(Clone, Debug)]
struct Shape {
    hidden: usize,
    ffn: usize,
    kv_heads: usize,
    group: usize,
    half_head: usize,
    vocab: usize,
    window: usize,
    softcap: f32,
    dtype: DType,
    gelu: bool,
    bias: bool,
    unit_offset: bool,
    paths: usize,
    head: HeadForm,
    keep_dense: bool,
    activations: Activations,
    level: Level,
    backend: BackendChoice,
    threads: usize,
    seed: u64,
}

fn shapes() -> impl Strategy<Value = Shape> {
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

fn model(s: &Shape) -> (Graph, BTreeMap<String, Tensor>) {
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

struct Silent;

impl Progress for Silent {
    fn phase(&mut self, _: &'static str, _: u64) {}
    fn advance(&mut self, _: u64) {}
}

fn check(s: &Shape) {
    let targets = Targets {
        levels: vec![s.level],
        gpus: Vec::new(),
    };
    check_on(s, targets, 16, Device::Cpu);
}

/// Compiles a random model and checks every kernel of it on a device.
fn check_on(s: &Shape, targets: Targets, planes: usize, device: Device) {
    check_runs(s, targets, planes, device, &[1, 5, 3, 32, 2, 13]);
}

/// The same with runs of so many tokens, one after the other.
fn check_runs(s: &Shape, targets: Targets, planes: usize, device: Device, runs: &[u32]) {
    let context = (runs.iter().sum::<u32>() as usize).next_multiple_of(64);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("model.rbx");
    build(s, targets, planes, context, &path);
    let model = Arc::new(Model::open_on(&path, device).expect("the artifact opens"));
    model.artifact().check().expect("its hashes match");
    let graph =
        rabitc_ir::text::parse(model.artifact().graph().expect("a graph")).expect("it parses");
    let pool = Arc::new(Pool::new(s.threads).expect("a pool"));
    let mut session = Session::new(model, pool, context).expect("a session");
    let ids = |n: u32| -> Vec<u32> { (0..n).map(|i| (i * 7 + 1) % s.vocab as u32).collect() };
    let runs: Vec<_> = runs.iter().map(|n| ids(*n)).collect();
    let checks = verify(&mut session, &graph, &runs, &mut |_| {}).expect("it runs");
    let least = 4 * runs.len();
    assert!(checks.len() > least, "only {} checks", checks.len());
    let failed: Vec<_> = checks
        .iter()
        .filter(|c| c.worst.is_nan() || c.worst > 1.0)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}\n{s:?}");
}

fn build(s: &Shape, targets: Targets, planes: usize, context: usize, path: &Path) {
    let (graph, weights) = model(s);
    let options = Options {
        checkpoint: Default::default(),
        output: Some(path.to_path_buf()),
        targets,
        planes,
        gpu_tables: Default::default(),
        backend: s.backend,
        passes: rabitc_passes::Options {
            paths: s.paths,
            keep_dense: s.keep_dense,
            head: s.head,
            activations: s.activations,
            ..Default::default()
        },
        init: Init::Greedy,
        lower: Default::default(),
        emit: Vec::new(),
        record: BTreeMap::new(),
    };
    let input = Input {
        graph,
        model: rabitc_rbx::Model {
            vocab_size: s.vocab,
            context_length: context,
            n_layers: 1,
            n_heads: s.kv_heads * s.group,
            n_kv_heads: s.kv_heads,
            head_dim: s.half_head * 2,
            ..Default::default()
        },
        store: &weights,
        sections: Vec::new(),
        provenance: BTreeMap::new(),
        source_bytes: 0,
    };
    assemble(input, &options, &mut Silent).expect("the model compiles");
}

/// The first GPU, or a word on why a test does nothing.
fn gpu() -> Option<Targets> {
    let found = rabitc_runtime::cuda::driver::installed().map_err(|e| e.to_string());
    let first = found.and_then(|i| {
        i.devices
            .first()
            .cloned()
            .ok_or("there is no device".into())
    });
    let compiler = rabitc_codegen::cuda::Compiler::new().map_err(|e| e.to_string());
    match (first, compiler) {
        (Ok(device), Ok(_)) => Some(Targets {
            levels: Vec::new(),
            gpus: vec![device.arch],
        }),
        (Err(reason), _) | (_, Err(reason)) => {
            println!("skipped: {reason}");
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn kernels_equal_the_interpreter_within_their_bounds(shape in shapes()) {
        check(&shape);
    }

    #[test]
    fn gpu_kernels_equal_the_interpreter_within_their_tolerance(shape in shapes()) {
        if let Some(targets) = gpu() {
            let planes = if shape.activations == Activations::F32 { 16 } else { 8 };
            check_on(&shape, targets, planes, Device::Cuda(0));
        }
    }
}

#[test]
fn gpu_kernels_of_larger_shapes_work_too() {
    let Some(targets) = gpu() else { return };
    for (hidden, ffn, kv_heads, group, half_head, paths) in [
        (2048, 5504, 4, 4, 32, 2),
        (1536, 4100, 2, 1, 128, 3),
        (4096, 11008, 8, 1, 64, 2),
    ] {
        let shape = Shape {
            hidden,
            ffn,
            kv_heads,
            group,
            half_head,
            paths,
            ..plain()
        };
        check_on(&shape, targets.clone(), 16, Device::Cuda(0));
    }
}

/// Prompts of more than one tile, in tiles of 128 and, where a layer has rows enough, of 256 tokens.
#[test]
fn gpu_kernels_of_long_prompts_work_too() {
    let Some(targets) = gpu() else { return };
    for (ffn, window, paths) in [(700, 0, 2), (90, 100, 3)] {
        let shape = Shape {
            hidden: 70,
            ffn,
            kv_heads: 1,
            group: 2,
            half_head: 16,
            window,
            paths,
            ..plain()
        };
        let runs = [150, 530];
        check_runs(&shape, targets.clone(), 16, Device::Cuda(0), &runs);
    }
}

#[test]
fn random_models_compile_for_gpus() {
    if let Err(error) = rabitc_codegen::cuda::Compiler::new() {
        println!("skipped: {error}");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let gpus = ["sm_80", "sm_90"]
        .map(|a| a.parse().expect("an architecture"))
        .to_vec();
    let targets = Targets {
        levels: Vec::new(),
        gpus,
    };
    let path = folder.path().join("model.rbx");
    let shape = Shape {
        hidden: 301,
        ffn: 602,
        kv_heads: 3,
        half_head: 19,
        paths: 3,
        softcap: 9.0,
        head: HeadForm::AsStored,
        ..plain()
    };
    build(&shape, targets, 16, 64, &path);
    let artifact = rabitc_rbx::Artifact::open(&path).expect("the artifact opens");
    artifact.check().expect("its hashes match");
    for target in &artifact.manifest().gpus {
        assert_eq!(target.programs.len(), 6);
        for kernel in &target.kernels {
            assert_eq!(kernel.resources.spill_stores, 0, "{}", kernel.name);
        }
    }
}

#[test]
fn the_smallest_and_the_most_even_shapes_work_too() {
    let mut shape = plain();
    check(&shape);
    shape.activations = Activations::F32;
    check(&shape);
    (shape.hidden, shape.ffn, shape.half_head, shape.vocab) = (512, 2048, 32, 64);
    (shape.paths, shape.head) = (8, HeadForm::Int8);
    check(&shape);
    shape.activations = Activations::Int8;
    check(&shape);
}

/// As small as a model can be, with nothing special.
fn plain() -> Shape {
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
