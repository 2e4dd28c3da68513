//! One maker for every op of the table.

use rabitc_ir::ops::attention::Attention;
use rabitc_ir::ops::cast::Cast;
use rabitc_ir::ops::elementwise::{Add, AddBias, GeluTanh, Mul, Silu, Softcap};
use rabitc_ir::ops::embed::Embed;
use rabitc_ir::ops::gate::{Activation, Gate};
use rabitc_ir::ops::int8::{Int8Data, Int8Scale};
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::linear_int8::LinearInt8;
use rabitc_ir::ops::pack::{Concat, PackScales, PackSigns};
use rabitc_ir::ops::paths::{BinaryMatmul, Scale};
use rabitc_ir::ops::residual_sign::ResidualSign;
use rabitc_ir::ops::rms_norm::RmsNorm;
use rabitc_ir::ops::rope::{Rope, RopeGrad, RopeTable};
use rabitc_ir::ops::select_rows::SelectRows;
use rabitc_ir::ops::slice::Slice;
use rabitc_ir::ops::source::{Const, Input, Weight};
use rabitc_ir::{DType, Dim, NodeId, Op, Type};

use super::{Random, VOCAB, activation_type};

impl Random {
    /// Adds one op of that name. Every op of the table must have its line here.
    pub fn step(&mut self, op: &str) -> NodeId {
        match op {
            "input" => self.any_input(),
            "weight" => self.any_weight(),
            "const" => self.any_const(),
            "embed" => self.embed(),
            "rms_norm" => self.rms_norm(),
            "linear" => self.linear(),
            "linear_int8" => self.linear_int8(),
            "add_bias" => self.add_bias(),
            "add" => self.pair(Add {}),
            "mul" => self.pair(Mul {}),
            "gate" => {
                let act = self.rng.pick(Activation::ALL);
                self.pair(Gate { act })
            }
            "silu" => self.one(Silu {}),
            "gelu_tanh" => self.one(GeluTanh {}),
            "softcap" => {
                let cap = self.rng.pick(&[0.1, 1.0, 30.0, 1e-30, f32::MAX]);
                self.one(Softcap { cap })
            }
            "slice" => self.slice(),
            "select_rows" => self.select_rows(),
            "rope_table" => self.rope_table(),
            "rope" => self.rope(Rope {}),
            "rope_grad" => self.rope(RopeGrad {}),
            "attention" => self.attention(),
            "scale" => self.scale(),
            "binary_matmul" => self.binary_matmul(),
            "residual_binary" => self.residual_binary(),
            "residual_sign" => self.residual_sign(),
            "pack_signs" => self.pack_signs(),
            "pack_scales" => self.pack_scales(),
            "concat" => self.concat(),
            "cast" => self.cast(),
            "int8_data" => self.int8(Int8Data {}),
            "int8_scale" => self.int8(Int8Scale {}),
            other => self.train_step(other),
        }
    }

    /// A number that prints in an unusual way as often as not.
    fn number(&mut self) -> f32 {
        let odd = [
            -0.0,
            1e-30,
            f32::MIN_POSITIVE,
            1e20,
            0.1,
            -1.5,
            16_777_216.0,
        ];
        let value = self.rng.value();
        let odd = self.rng.pick(&odd);
        self.rng.pick(&[value, odd])
    }

    fn any_input(&mut self) -> NodeId {
        let dtype = self.rng.pick(&DType::ALL);
        let sizes = [
            Dim::Tokens,
            Dim::Rows,
            Dim::Fixed(0),
            Dim::Fixed(3),
            Dim::Fixed(9),
        ];
        let rank = self.rng.below(4);
        let shape: Vec<Dim> = (0..rank).map(|_| self.rng.pick(&sizes)).collect();
        let name = format!("any \"{}\"", self.graph.len());
        let ty = Type::new(dtype, shape);
        self.add(Input { name, ty }, &[])
    }

    fn any_weight(&mut self) -> NodeId {
        let dtype = self.rng.pick(&DType::ALL);
        let rank = self.rng.below(4);
        let shape: Vec<_> = (0..rank).map(|_| self.rng.between(0, 9)).collect();
        let name = format!("any\\{}", self.graph.len());
        let ty = Type::fixed(dtype, &shape);
        self.add(Weight { name, ty }, &[])
    }

    fn any_const(&mut self) -> NodeId {
        let shape: Vec<_> = (0..self.rng.below(3))
            .map(|_| self.rng.between(0, 4))
            .collect();
        let n: usize = shape.iter().product();
        let odd = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        let data = (0..n).map(|_| match self.rng.below(9) {
            0 => self.rng.pick(&odd),
            _ => self.number(),
        });
        let data = data.collect();
        let ty = Type::fixed(DType::F32, &shape);
        self.add(Const { ty, data }, &[])
    }

    pub(super) fn one(&mut self, op: impl Into<Op>) -> NodeId {
        let x = self.activation();
        self.add(op, &[x])
    }

    fn pair(&mut self, op: impl Into<Op>) -> NodeId {
        let a = self.activation();
        let b = self.value(&self.graph.ty(a).clone());
        self.add(op, &[a, b])
    }

    fn embed(&mut self) -> NodeId {
        let (dtype, rows) = (self.float(), self.rows());
        let shape = [self.rng.between(VOCAB, 9), self.rng.between(1, 9)];
        let (table, ids) = (self.weight(dtype, &shape), self.indices("ids", rows));
        let scale = self.number();
        self.add(Embed { scale }, &[table, ids])
    }

    fn rms_norm(&mut self) -> NodeId {
        let x = self.activation();
        let (d, dtype) = (self.shape(x).1, self.float());
        let divisors: Vec<_> = (1..=d).filter(|n| d % n == 0).collect();
        let group = self.rng.pick(&divisors);
        let weight = self.weight(dtype, &[group]);
        let eps = self.rng.pick(&[0.0, 1e-6, 1e-5, 0.5]);
        let unit_offset = self.rng.below(2) == 0;
        self.add(RmsNorm { eps, unit_offset }, &[x, weight])
    }

    fn linear(&mut self) -> NodeId {
        let x = self.activation();
        let (dtype, d_out) = (self.float(), self.rng.between(1, 12));
        let weight = self.weight(dtype, &[d_out, self.shape(x).1]);
        self.add(Linear {}, &[x, weight])
    }

    fn linear_int8(&mut self) -> NodeId {
        let x = self.activation();
        let d_out = self.rng.between(1, 12);
        let data = self.weight(DType::I8, &[d_out, self.shape(x).1]);
        let scale = self.weight(DType::F32, &[d_out]);
        self.add(LinearInt8 {}, &[x, data, scale])
    }

    fn add_bias(&mut self) -> NodeId {
        let x = self.activation();
        let dtype = self.float();
        let bias = self.weight(dtype, &[self.shape(x).1]);
        self.add(AddBias {}, &[x, bias])
    }

    fn slice(&mut self) -> NodeId {
        let x = self.activation();
        let d = self.shape(x).1;
        let start = self.rng.below(d);
        let len = self.rng.between(1, d - start);
        self.add(Slice { start, len }, &[x])
    }

    fn select_rows(&mut self) -> NodeId {
        let (x, rows) = (self.activation(), self.rows());
        let rows = self.indices("rows", rows);
        self.add(SelectRows {}, &[x, rows])
    }

    fn rope_table(&mut self) -> NodeId {
        let (rows, dtype) = (self.rows(), self.float());
        let inv_freq = self.rng.between(1, 4);
        let inv_freq = self.weight(dtype, &[inv_freq]);
        let positions = self.indices("positions", rows);
        let attention_factor = self.number();
        self.add(RopeTable { attention_factor }, &[positions, inv_freq])
    }

    fn rope(&mut self, op: impl Into<Op>) -> NodeId {
        let rows = self.rows();
        let head_dim = 2 * self.rng.between(1, 4);
        let table = self.value(&activation_type(rows, head_dim));
        let width = head_dim * self.rng.between(1, 3);
        let x = self.value(&activation_type(rows, width));
        self.add(op, &[x, table])
    }

    fn attention(&mut self) -> NodeId {
        let rows = self.rows();
        let n_kv_heads = self.rng.between(1, 2);
        let head_dim = self.rng.between(1, 4);
        let op = Attention {
            n_heads: n_kv_heads * self.rng.between(1, 3),
            n_kv_heads,
            head_dim,
            scale: self.number(),
            window: self.rng.below(4),
            softcap: self.rng.pick(&[0.0, 0.5, 50.0]),
            layer: self.layers,
        };
        self.layers += 1;
        let q = self.value(&activation_type(rows, op.n_heads * head_dim));
        let kv = activation_type(rows, n_kv_heads * head_dim);
        let (k, v) = (self.value(&kv), self.value(&kv));
        let positions = self.indices("positions", rows);
        self.add(op, &[q, k, v, positions])
    }

    fn scale(&mut self) -> NodeId {
        let x = self.activation();
        let (dtype, paths) = (self.float(), self.rng.between(1, 3));
        let scales = self.weight(dtype, &[paths, self.shape(x).1]);
        let row = self.rng.below(paths);
        self.add(Scale { row }, &[x, scales])
    }

    fn binary_matmul(&mut self) -> NodeId {
        let x = self.activation();
        let shape = [
            self.rng.between(1, 3),
            self.rng.between(1, 12),
            self.shape(x).1,
        ];
        let signs = self.weight(DType::Bit, &shape);
        let path = self.rng.below(shape[0]);
        self.add(BinaryMatmul { path }, &[x, signs])
    }

    fn residual_sign(&mut self) -> NodeId {
        let [k, d_out, d_in] = [3, 12, 12].map(|most| self.rng.between(1, most));
        let dtypes = [(); 3].map(|()| self.float());
        let w = self.weight(dtypes[0], &[d_out, d_in]);
        let g = self.weight(dtypes[1], &[k, d_out]);
        let h = self.weight(dtypes[2], &[k, d_in]);
        self.add(ResidualSign {}, &[w, g, h])
    }

    pub(super) fn segments(&mut self) -> Vec<usize> {
        (0..self.rng.between(1, 3))
            .map(|_| self.rng.between(1, 20))
            .collect()
    }

    fn pack_signs(&mut self) -> NodeId {
        let (k, d_in) = (self.rng.between(1, 3), self.rng.between(1, 40));
        let segments = self.segments().into_iter();
        let signs: Vec<_> = segments
            .map(|d_out| self.weight(DType::Bit, &[k, d_out, d_in]))
            .collect();
        let row_tiles = self.rng.between(1, 4);
        self.add(PackSigns { row_tiles }, &signs)
    }

    fn pack_scales(&mut self) -> NodeId {
        let (k, dtype) = (self.rng.between(1, 3), self.float());
        let segments = self.segments().into_iter();
        let scales: Vec<_> = segments
            .map(|d_out| self.weight(dtype, &[k, d_out]))
            .collect();
        let row_tiles = self.rng.between(1, 4);
        self.add(PackScales { row_tiles }, &scales)
    }

    fn concat(&mut self) -> NodeId {
        let (dtype, columns) = (self.float(), self.rng.between(1, 4));
        let parts: Vec<_> = (0..self.rng.between(1, 3))
            .map(|_| self.rng.between(1, 4))
            .collect();
        let parts = parts.into_iter();
        let parts: Vec<_> = parts.map(|r| self.weight(dtype, &[r, columns])).collect();
        self.add(Concat {}, &parts)
    }

    fn cast(&mut self) -> NodeId {
        let (from, to) = (self.float(), self.float());
        let shape = [self.rng.between(1, 4), self.rng.between(1, 4)];
        let weight = self.weight(from, &shape);
        self.add(Cast { to }, &[weight])
    }

    fn int8(&mut self, op: impl Into<Op>) -> NodeId {
        let dtype = self.float();
        let shape = [self.rng.between(1, 4), self.rng.between(1, 9)];
        let weight = self.weight(dtype, &shape);
        self.add(op, &[weight])
    }
}
