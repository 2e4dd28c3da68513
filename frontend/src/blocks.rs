//! The building blocks that the families share: norms, attention, the gated feed-forward part.
//!
//! Nodes are named after the modules of the reference implementation, `model.layers.3.mlp` and so
//! on, whatever prefix the checkpoint's tensors carry, so that patterns over names hold for every
//! checkpoint.

use rabitc_ir::op::Op;
use rabitc_ir::ops::attention::Attention;
use rabitc_ir::ops::elementwise::{Add, AddBias, GeluTanh, Mul, Silu, Softcap};
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rope::{Rope, RopeTable};
use rabitc_ir::ops::select_rows::SelectRows;
use rabitc_ir::ops::source::{Const, Input, Weight};
use rabitc_ir::{DType, Dim, Graph, NodeId, Type};

use crate::config::{Activation, ModelConfig};
use crate::error::Error;
use crate::lower::BufferPrecision;
use crate::tensors::{Role, TensorSource};

/// Whether q and k are normalised head by head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Norms {
    None,
    QueryAndKey,
}

/// A graph under construction.
pub(crate) struct Builder<'a> {
    pub config: &'a ModelConfig,
    pub source: &'a mut dyn TensorSource,
    pub graph: Graph,
    ids: NodeId,
    positions: NodeId,
    rows: NodeId,
    /// The embedding table.
    table: NodeId,
    /// The element type to which computed buffers are rounded.
    pub buffers: DType,
    /// One rotary table for each of the configuration's.
    ropes: Vec<NodeId>,
}

impl<'a> Builder<'a> {
    /// A graph with the inputs of a model, its embedding table, its rotary tables and nothing
    /// else.
    pub fn new(
        config: &'a ModelConfig,
        source: &'a mut dyn TensorSource,
        precision: BufferPrecision,
    ) -> Result<Self, Error> {
        let mut graph = Graph::new(&config.architecture);
        let mut input = |name: &str, dim: Dim| {
            let op = Input {
                name: name.to_string(),
                ty: Type::new(DType::I32, [dim]),
            };
            graph.add(name, op, &[])
        };
        let (ids, positions) = (input("ids", Dim::Tokens)?, input("positions", Dim::Tokens)?);
        let rows = input("rows", Dim::Rows)?;
        let mut builder = Builder {
            config,
            source,
            graph,
            ids,
            positions,
            rows,
            table: ids,
            buffers: DType::F32,
            ropes: Vec::new(),
        };
        let shape = [config.vocab_size, config.hidden_size];
        let table = builder.weight("model.embed_tokens.weight", &shape, Role::Embedding)?;
        builder.table = table;
        let embedding = builder.graph.ty(table).dtype;
        builder.buffers = precision.dtype(config.context_length, embedding);
        for (name, _) in &config.ropes {
            let table = builder.rope_table(name)?;
            builder.ropes.push(table);
        }
        Ok(builder)
    }

    /// Adds a node.
    pub fn add(
        &mut self,
        name: &str,
        op: impl Into<Op>,
        operands: &[NodeId],
    ) -> Result<NodeId, Error> {
        Ok(self.graph.add(name, op, operands)?)
    }

    /// The weight node of a tensor, which must have this shape. One node serves all readers.
    pub fn weight(&mut self, tensor: &str, shape: &[usize], role: Role) -> Result<NodeId, Error> {
        let found = self.source.take(tensor, shape, role)?;
        if let Some(node) = self.graph.find(&found.name) {
            return Ok(node);
        }
        let op = Weight {
            name: found.name.clone(),
            ty: Type::fixed(found.dtype, shape),
        };
        self.add(&found.name, op, &[])
    }

    fn rope_table(&mut self, name: &str) -> Result<NodeId, Error> {
        let config = self.config;
        let named = config.ropes.iter().find(|(n, _)| n == name);
        let (_, rope) = named.expect("asked for by the configuration's own names");
        let data = rope.inv_freq(config.head_dim);
        let data: Vec<f32> = data.into_iter().map(|f| self.buffer(f)).collect();
        let ty = Type::fixed(DType::F32, &[data.len()]);
        let inv_freq = self.add(&format!("{name}.inv_freq"), Const { ty, data }, &[])?;
        let op = RopeTable {
            attention_factor: rope.attention_factor(),
        };
        self.add(name, op, &[self.positions, inv_freq])
    }

    /// A computed value in the precision that the reference holds it in.
    fn buffer(&self, value: f32) -> f32 {
        match self.buffers {
            DType::BF16 => half::bf16::from_f32(value).to_f32(),
            DType::F16 => half::f16::from_f32(value).to_f32(),
            _ => value,
        }
    }

    /// Token embedding: ids to the residual stream.
    pub fn embed(&mut self) -> Result<NodeId, Error> {
        let op = Embed {
            scale: self.buffer(self.config.embed_scale),
        };
        self.add("model.embed_tokens", op, &[self.table, self.ids])
    }

    /// A norm over the whole residual stream, or over each head if `width` is `head_dim`.
    fn norm_of(&mut self, name: &str, x: NodeId, width: usize) -> Result<NodeId, Error> {
        let unit_offset = self.config.norm_unit_offset;
        let role = Role::Norm { unit_offset };
        let weight = self.weight(&format!("{name}.weight"), &[width], role)?;
        let op = RmsNorm {
            eps: self.config.rms_norm_eps,
            unit_offset,
        };
        self.add(name, op, &[x, weight])
    }

    /// The norm `name` of a layer.
    pub fn norm(&mut self, layer: usize, name: &str, x: NodeId) -> Result<NodeId, Error> {
        let name = format!("model.layers.{layer}.{name}");
        self.norm_of(&name, x, self.config.hidden_size)
    }

    /// x + h.
    pub fn residual(
        &mut self,
        layer: usize,
        name: &str,
        x: NodeId,
        h: NodeId,
    ) -> Result<NodeId, Error> {
        self.add(&format!("model.layers.{layer}.{name}"), Add {}, &[x, h])
    }

    /// A linear layer in whichever form the checkpoint holds it, with its bias if it has one.
    fn linear_bias(
        &mut self,
        name: &str,
        x: NodeId,
        d_out: usize,
        bias: bool,
    ) -> Result<NodeId, Error> {
        let y = self.linear(name, x, d_out)?;
        if !bias {
            return Ok(y);
        }
        let bias = self.weight(&format!("{name}.bias"), &[d_out], Role::Bias)?;
        self.add(&format!("{name}.add_bias"), AddBias {}, &[y, bias])
    }

    /// Grouped-query attention of a layer, from the normed stream to the output projection.
    pub fn attention(&mut self, layer: usize, x: NodeId, norms: Norms) -> Result<NodeId, Error> {
        let c = self.config;
        let at = |part: &str| format!("model.layers.{layer}.self_attn.{part}");
        let mut q = self.linear_bias(&at("q_proj"), x, c.q_width(), c.qkv_bias)?;
        let mut k = self.linear_bias(&at("k_proj"), x, c.kv_width(), c.qkv_bias)?;
        let v = self.linear_bias(&at("v_proj"), x, c.kv_width(), c.qkv_bias)?;
        if norms == Norms::QueryAndKey {
            q = self.norm_of(&at("q_norm"), q, c.head_dim)?;
            k = self.norm_of(&at("k_norm"), k, c.head_dim)?;
        }
        let table = self.ropes[c.layers[layer].rope];
        let q = self.add(&at("q_rope"), Rope {}, &[q, table])?;
        let k = self.add(&at("k_rope"), Rope {}, &[k, table])?;
        let op = Attention {
            n_heads: c.n_heads,
            n_kv_heads: c.n_kv_heads,
            head_dim: c.head_dim,
            scale: c.attention_scale,
            window: c.layers[layer].window,
            softcap: 0.0,
            layer,
        };
        let h = self.add(&at("attention"), op, &[q, k, v, self.positions])?;
        self.linear_bias(&at("o_proj"), h, c.hidden_size, c.o_bias)
    }

    /// The gated feed-forward part of a layer: down(act(gate(x)) ⊙ up(x)).
    pub fn mlp(&mut self, layer: usize, x: NodeId) -> Result<NodeId, Error> {
        let c = self.config;
        let at = |part: &str| format!("model.layers.{layer}.mlp.{part}");
        let gate = self.linear_bias(&at("gate_proj"), x, c.intermediate_size, c.mlp_bias)?;
        let up = self.linear_bias(&at("up_proj"), x, c.intermediate_size, c.mlp_bias)?;
        let act: Op = match c.activation {
            Activation::Silu => Silu {}.into(),
            Activation::GeluTanh => GeluTanh {}.into(),
        };
        let gate = self.add(&at("act"), act, &[gate])?;
        let h = self.add(&at("gated"), Mul {}, &[gate, up])?;
        self.linear_bias(&at("down_proj"), h, c.hidden_size, c.mlp_bias)
    }

    /// From the residual stream to the logits of the rows that are asked for.
    pub fn head(&mut self, x: NodeId) -> Result<NodeId, Error> {
        let x = self.add("model.select_rows", SelectRows {}, &[x, self.rows])?;
        let x = self.norm_of("model.norm", x, self.config.hidden_size)?;
        let logits = self.linear("lm_head", x, self.config.vocab_size)?;
        match self.config.final_softcap {
            Some(cap) => self.add("logits", Softcap { cap }, &[logits]),
            None => Ok(logits),
        }
    }
}

/// A block with a norm before each of its two parts: Llama and its kin.
pub(crate) fn pre_norm_block(
    b: &mut Builder<'_>,
    layer: usize,
    x: NodeId,
) -> Result<NodeId, Error> {
    pre_norm_block_with(b, layer, x, Norms::None)
}

/// The same with norms on q and k if `norms` says so.
pub(crate) fn pre_norm_block_with(
    b: &mut Builder<'_>,
    layer: usize,
    x: NodeId,
    norms: Norms,
) -> Result<NodeId, Error> {
    let h = b.norm(layer, "input_layernorm", x)?;
    let h = b.attention(layer, h, norms)?;
    let x = b.residual(layer, "self_attn.residual", x, h)?;
    let h = b.norm(layer, "post_attention_layernorm", x)?;
    let h = b.mlp(layer, h)?;
    b.residual(layer, "mlp.residual", x, h)
}
