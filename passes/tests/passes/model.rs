//! Small models of the supported kinds, their weights, and what they compute.

use std::collections::BTreeMap;
use std::fmt::Write;

use proptest::prelude::*;
use rabitc_ir::text::parse;
use rabitc_ir::{Data, Graph, Interpreter, Op, Tensor, WeightStore};

/// What makes one small model differ from another.
#[derive(Clone, Debug)]
pub struct Model {
    pub layers: usize,
    pub n_kv_heads: usize,
    pub group: usize,
    pub head_dim: usize,
    pub ffn: usize,
    pub window: usize,
    /// Biases on q, k and v (Qwen 2).
    pub bias: bool,
    /// Norms on q and k (Qwen 3, Gemma 3).
    pub qk_norm: bool,
    /// Norms after attention and feed-forward, before the residual addition (Gemma 3).
    pub post_norm: bool,
    pub tied: bool,
    pub act: &'static str,
    pub dtype: &'static str,
}

/// Rows of the embedding and of the head.
pub const VOCAB: usize = 11;
/// Channels of the residual stream: no multiple of 8 or 32.
pub const HIDDEN: usize = 19;

/// Any small model.
pub fn any_model() -> impl Strategy<Value = Model> {
    let sizes = (
        1..4usize,
        1..3usize,
        1..3usize,
        1..4usize,
        1..40usize,
        0..4usize,
    );
    let flags = any::<[bool; 5]>();
    let dtype = prop_oneof![Just("f32"), Just("f16"), Just("bf16")];
    (sizes, flags, dtype).prop_map(|(sizes, flags, dtype)| Model {
        layers: sizes.0,
        n_kv_heads: sizes.1,
        group: sizes.2,
        head_dim: 2 * sizes.3,
        ffn: sizes.4,
        window: sizes.5,
        bias: flags[0],
        qk_norm: flags[1],
        post_norm: flags[2],
        tied: flags[3],
        act: if flags[4] { "silu" } else { "gelu_tanh" },
        dtype,
    })
}

/// A graph's text as it grows.
struct Text {
    out: String,
    dtype: &'static str,
}

impl Text {
    /// A node of type `f32[rows,d]`; gives its name.
    fn node(&mut self, name: &str, op: &str, rows: char, d: usize) -> String {
        writeln!(self.out, "  %{name} = {op} : f32[{rows},{d}]").expect("a String");
        name.to_string()
    }

    fn weight(&mut self, name: &str, shape: &str) -> String {
        let ty = format!("{}[{shape}]", self.dtype);
        writeln!(
            self.out,
            "  %{name} = weight {{name=\"{name}\", ty={ty}}} : {ty}"
        )
        .expect("a String");
        name.to_string()
    }

    fn linear(&mut self, name: &str, x: &str, [d_out, d_in]: [usize; 2]) -> String {
        let weight = self.weight(&format!("{name}.weight"), &format!("{d_out},{d_in}"));
        self.node(name, &format!("linear(%{x}, %{weight})"), 'T', d_out)
    }

    fn norm(&mut self, name: &str, x: &str, [d, group]: [usize; 2], rows: char) -> String {
        let weight = self.weight(&format!("{name}.weight"), &group.to_string());
        let op = format!("rms_norm(%{x}, %{weight}) {{eps=1e-5, unit_offset=true}}");
        self.node(name, &op, rows, d)
    }
}

impl Model {
    /// The graph, as a frontend would build it.
    pub fn graph(&self) -> Graph {
        let mut t = Text {
            out: String::from("graph \"small\" {\n"),
            dtype: self.dtype,
        };
        for (name, dim) in [("ids", 'T'), ("positions", 'T'), ("rows", 'R')] {
            let ty = format!("i32[{dim}]");
            writeln!(
                t.out,
                "  %{name} = input {{name=\"{name}\", ty={ty}}} : {ty}"
            )
            .expect("a String");
        }
        let half = self.head_dim / 2;
        let data: Vec<_> = (0..half)
            .map(|i| format!("{:?}", 0.3f32.powi(i as i32)))
            .collect();
        let inv_freq = format!(
            "const {{ty=f32[{half}], data=[{}]}} : f32[{half}]",
            data.join(",")
        );
        writeln!(t.out, "  %inv_freq = {inv_freq}").expect("a String");
        let table = "rope_table(%positions, %inv_freq) {attention_factor=1.0}";
        t.node("rope", table, 'T', self.head_dim);
        let table = t.weight("embed.weight", &format!("{VOCAB},{HIDDEN}"));
        let mut x = t.node(
            "embed",
            &format!("embed(%{table}, %ids) {{scale=2.0}}"),
            'T',
            HIDDEN,
        );
        for layer in 0..self.layers {
            x = self.attention(&mut t, layer, &x);
            x = self.mlp(&mut t, layer, &x);
        }
        let x = t.node("select", &format!("select_rows(%{x}, %rows)"), 'R', HIDDEN);
        let x = t.norm("norm", &x, [HIDDEN, HIDDEN], 'R');
        let head = match self.tied {
            true => table,
            false => t.weight("lm_head.weight", &format!("{VOCAB},{HIDDEN}")),
        };
        t.node("lm_head", &format!("linear(%{x}, %{head})"), 'R', VOCAB);
        let text = t.out + "  output \"logits\" %lm_head\n}\n";
        parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    fn attention(&self, t: &mut Text, layer: usize, x: &str) -> String {
        let at = |part: &str| format!("layers.{layer}.{part}");
        let (n_heads, d) = (self.n_kv_heads * self.group, self.head_dim);
        let normed = t.norm(&at("input_norm"), x, [HIDDEN; 2], 'T');
        let mut qkv = Vec::new();
        for (part, heads) in [
            ("q", n_heads),
            ("k", self.n_kv_heads),
            ("v", self.n_kv_heads),
        ] {
            let width = heads * d;
            let mut y = t.linear(&at(&format!("{part}_proj")), &normed, [width, HIDDEN]);
            if self.bias {
                let bias = t.weight(&at(&format!("{part}_proj.bias")), &width.to_string());
                let op = format!("add_bias(%{y}, %{bias})");
                y = t.node(&at(&format!("{part}_bias")), &op, 'T', width);
            }
            if self.qk_norm && part != "v" {
                y = t.norm(&at(&format!("{part}_norm")), &y, [width, d], 'T');
            }
            if part != "v" {
                let op = format!("rope(%{y}, %rope)");
                y = t.node(&at(&format!("{part}_rope")), &op, 'T', width);
            }
            qkv.push(y);
        }
        let op = format!(
            "attention(%{}, %{}, %{}, %positions) {{n_heads={n_heads}, n_kv_heads={}, \
             head_dim={d}, scale=0.5, window={}, softcap=0.0, layer={layer}}}",
            qkv[0], qkv[1], qkv[2], self.n_kv_heads, self.window
        );
        let h = t.node(&at("attention"), &op, 'T', n_heads * d);
        let h = t.linear(&at("o_proj"), &h, [HIDDEN, n_heads * d]);
        self.residual(t, &at("attention"), x, h)
    }

    fn mlp(&self, t: &mut Text, layer: usize, x: &str) -> String {
        let at = |part: &str| format!("layers.{layer}.{part}");
        let normed = t.norm(&at("mlp_norm"), x, [HIDDEN; 2], 'T');
        let gate = t.linear(&at("gate_proj"), &normed, [self.ffn, HIDDEN]);
        let up = t.linear(&at("up_proj"), &normed, [self.ffn, HIDDEN]);
        let act = t.node(&at("act"), &format!("{}(%{gate})", self.act), 'T', self.ffn);
        let gated = t.node(&at("gated"), &format!("mul(%{act}, %{up})"), 'T', self.ffn);
        let h = t.linear(&at("down_proj"), &gated, [HIDDEN, self.ffn]);
        self.residual(t, &at("mlp"), x, h)
    }

    fn residual(&self, t: &mut Text, name: &str, x: &str, h: String) -> String {
        let h = match self.post_norm {
            true => t.norm(&format!("{name}.post_norm"), &h, [HIDDEN; 2], 'T'),
            false => h,
        };
        t.node(
            &format!("{name}.residual"),
            &format!("add(%{x}, %{h})"),
            'T',
            HIDDEN,
        )
    }
}

/// Weights for every weight node: numbers in −1..1 by SplitMix64, rounded to their type.
pub fn random_weights(graph: &Graph, seed: u64) -> BTreeMap<String, Tensor> {
    let mut state = seed;
    let mut number = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut weights = BTreeMap::new();
    for id in graph.order() {
        if let Op::Weight(w) = graph.op(id) {
            let shape = w.ty.fixed_shape().expect("a weight");
            let values = Tensor {
                dtype: w.ty.dtype,
                data: Data::F32((0..shape.iter().product()).map(|_| number()).collect()),
                shape: shape.clone(),
            };
            let rounded = Tensor::from_le_bytes(w.ty.dtype, &shape, &values.to_le_bytes());
            weights.insert(w.name.clone(), rounded.expect("its own bytes"));
        }
    }
    weights
}

/// Logits of a prefill of five tokens and a step of one, one after the other.
pub fn logits(graph: &Graph, weights: &dyn WeightStore) -> Vec<f32> {
    let mut run = Interpreter::new(graph, weights);
    let mut out = Vec::new();
    let steps: [[&[i32]; 3]; 2] = [
        [&[3, 1, 4, 1, 5], &[0, 1, 2, 3, 4], &[4, 2]],
        [&[9], &[5], &[0]],
    ];
    for step in steps {
        let values = ["ids", "positions", "rows"].into_iter().zip(step);
        let inputs = values.map(|(n, v)| (n.to_string(), Tensor::i32(&[v.len()], v.to_vec())));
        let outputs = run.run(inputs).unwrap_or_else(|e| panic!("{e}"));
        out.extend_from_slice(outputs["logits"].floats());
    }
    out
}

/// Asserts that logits agree to `tolerance` of the largest.
#[track_caller]
pub fn assert_same(found: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    let largest = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert_eq!(found.len(), expected.len(), "{what}");
    assert!(
        largest.is_finite() && largest > 0.0,
        "{what}: nothing to compare"
    );
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() <= tolerance * largest,
            "{what}: {f} is not {e}"
        );
    }
}

/// How many nodes are of the op `name`.
pub fn count(graph: &Graph, name: &str) -> usize {
    let ids = graph.order().into_iter();
    ids.filter(|id| graph.op(*id).name() == name).count()
}
