//! The makers of the ops that training graphs have.

use rabitc_ir::ops::attention_train::{AttentionLse, AttentionTrain};
use rabitc_ir::ops::attention_train_grad::AttentionTrainGrad;
use rabitc_ir::ops::cross_entropy::{CrossEntropy, CrossEntropyGrad};
use rabitc_ir::ops::effective_weight::{Derive, EffectiveScaleGrad, EffectiveWeight};
use rabitc_ir::ops::elementwise_grad::{ActivationGrad, GateGrad, SoftcapGrad};
use rabitc_ir::ops::gate::Activation;
use rabitc_ir::ops::kl_divergence::{KlDivergence, KlDivergenceGrad};
use rabitc_ir::ops::matmul::{Matmul, MatmulTn};
use rabitc_ir::ops::rms_norm_grad::{RmsNormGrad, RmsNormWeightGrad};
use rabitc_ir::ops::round::Round;
use rabitc_ir::ops::sample::Sample;
use rabitc_ir::ops::scatter_add::ScatterAdd;
use rabitc_ir::ops::slice::PadColumns;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError, SquaredErrorGrad};
use rabitc_ir::ops::sums::{SumRows, WeightedSum};
use rabitc_ir::{DType, Dim, NodeId, Op, Type};

use super::{Random, VOCAB, activation_type};

impl Random {
    /// Adds one training op of that name.
    pub(super) fn train_step(&mut self, op: &str) -> NodeId {
        match op {
            "matmul" => self.matmul(),
            "matmul_tn" => self.matmul_tn(),
            "sum_rows" => self.one(SumRows {}),
            "weighted_sum" => self.weighted_sum(),
            "scatter_add" => self.scatter_add(),
            "pad_columns" => self.pad_columns(),
            "activation_grad" => {
                let act = self.rng.pick(Activation::ALL);
                self.alike(ActivationGrad { act }, 2)
            }
            "softcap_grad" => self.alike(SoftcapGrad { cap: 2.0 }, 2),
            "gate_grad" => {
                let act = self.rng.pick(Activation::ALL);
                self.alike(GateGrad { act }, 3)
            }
            "rms_norm_grad" => self.rms_norm_grad(),
            "rms_norm_weight_grad" => self.rms_norm_weight_grad(),
            "attention_train" | "attention_lse" | "attention_train_grad" => {
                self.attention_train(op)
            }
            "kl_divergence" => self.alike(KlDivergence {}, 2),
            "kl_divergence_grad" => self.loss_grad(KlDivergenceGrad {}),
            "cross_entropy" | "cross_entropy_grad" => self.cross_entropy(op),
            "sample" => self.sample(),
            "squared_error" => {
                let normalize = self.rng.pick(Normalize::ALL);
                self.alike(SquaredError { normalize }, 2)
            }
            "squared_error_grad" => {
                let normalize = self.rng.pick(Normalize::ALL);
                self.loss_grad(SquaredErrorGrad { normalize })
            }
            "round" => self.round(),
            "effective_weight" | "effective_scale_grad" => self.effective(op),
            other => panic!("no maker for op `{other}`: add one here"),
        }
    }

    /// An op on `n` activations of one type.
    fn alike(&mut self, op: impl Into<Op>, n: usize) -> NodeId {
        let x = self.activation();
        let ty = self.graph.ty(x).clone();
        let mut operands = vec![x];
        operands.extend((1..n).map(|_| self.value(&ty)));
        self.add(op, &operands)
    }

    fn scalar(&mut self) -> NodeId {
        self.value(&Type::fixed(DType::F32, &[1]))
    }

    fn loss_grad(&mut self, op: impl Into<Op>) -> NodeId {
        let a = self.activation();
        let b = self.value(&self.graph.ty(a).clone());
        let dloss = self.scalar();
        self.add(op, &[a, b, dloss])
    }

    fn matmul(&mut self) -> NodeId {
        let a = self.activation();
        let (dtype, n) = (self.float(), self.rng.between(1, 9));
        let b = self.weight(dtype, &[self.shape(a).1, n]);
        self.add(Matmul {}, &[a, b])
    }

    fn matmul_tn(&mut self) -> NodeId {
        let a = self.activation();
        let (rows, n) = (self.shape(a).0, self.rng.between(1, 9));
        let b = self.value(&activation_type(rows, n));
        self.add(MatmulTn {}, &[a, b])
    }

    fn weighted_sum(&mut self) -> NodeId {
        let shape: Vec<_> = (0..self.rng.below(4)).map(|_| self.rows()).collect();
        let ty = Type::new(DType::F32, shape);
        let n = self.rng.between(1, 3);
        let parts: Vec<_> = (0..n).map(|_| self.value(&ty)).collect();
        let factors = (0..n).map(|_| self.rng.value()).collect();
        self.add(WeightedSum { factors }, &parts)
    }

    fn scatter_add(&mut self) -> NodeId {
        let x = self.activation();
        let (rows, d) = self.shape(x);
        let index = match rows {
            Dim::Fixed(_) => self.value(&Type::new(DType::I32, [rows])),
            rows => self.indices("ids", rows),
        };
        let fixed = Dim::Fixed(VOCAB + self.rng.below(3));
        let ty = activation_type(self.rng.pick(&[fixed, Dim::Tokens]), d);
        let scale = self.rng.value();
        self.add(ScatterAdd { ty, scale }, &[x, index])
    }

    fn pad_columns(&mut self) -> NodeId {
        let x = self.activation();
        let start = self.rng.below(3);
        let width = start + self.shape(x).1 + self.rng.below(3);
        self.add(PadColumns { start, width }, &[x])
    }

    fn rms_norm_grad(&mut self) -> NodeId {
        let x = self.activation();
        let dy = self.value(&self.graph.ty(x).clone());
        let dtype = self.float();
        let weight = self.weight(dtype, &[self.shape(x).1]);
        let (eps, unit_offset) = (1e-5, self.rng.below(2) == 0);
        self.add(RmsNormGrad { eps, unit_offset }, &[x, weight, dy])
    }

    fn rms_norm_weight_grad(&mut self) -> NodeId {
        let x = self.activation();
        let dy = self.value(&self.graph.ty(x).clone());
        let group = self.rng.pick(&[1, self.shape(x).1]);
        self.add(RmsNormWeightGrad { eps: 0.5, group }, &[x, dy])
    }

    fn attention_train(&mut self, op: &str) -> NodeId {
        let (rows, n_kv_heads) = (self.rows(), self.rng.between(1, 2));
        let (n_heads, head_dim) = (n_kv_heads * self.rng.between(1, 2), self.rng.between(1, 3));
        let (scale, window) = (self.rng.value(), self.rng.below(3));
        let softcap = self.rng.pick(&[0.0, 5.0]);
        let seq_len = self.rng.between(1, 3);
        let q = self.value(&activation_type(rows, n_heads * head_dim));
        let kv = activation_type(rows, n_kv_heads * head_dim);
        let (k, v) = (self.value(&kv), self.value(&kv));
        macro_rules! op {
            ($op:ident) => {
                $op {
                    n_heads,
                    n_kv_heads,
                    head_dim,
                    scale,
                    window,
                    softcap,
                    seq_len,
                }
            };
        }
        match op {
            "attention_train" => self.add(op!(AttentionTrain), &[q, k, v]),
            "attention_lse" => self.add(op!(AttentionLse), &[q, k]),
            _ => {
                let [y, dy] = [(); 2].map(|()| self.value(&self.graph.ty(q).clone()));
                let lse = self.value(&activation_type(rows, n_heads));
                self.add(op!(AttentionTrainGrad), &[q, k, v, y, lse, dy])
            }
        }
    }

    fn cross_entropy(&mut self, op: &str) -> NodeId {
        let (rows, d) = (self.rows(), self.rng.between(VOCAB, VOCAB + 4));
        let logits = self.value(&activation_type(rows, d));
        let labels = self.indices("ids", rows);
        if op == "cross_entropy" {
            return self.add(CrossEntropy {}, &[logits, labels]);
        }
        let dloss = self.scalar();
        self.add(CrossEntropyGrad {}, &[logits, labels, dloss])
    }

    fn sample(&mut self) -> NodeId {
        let (rows, d) = (self.rows(), self.rng.between(1, 9));
        let logits = self.value(&activation_type(rows, d));
        let draws = self.indices("ids", rows);
        self.add(Sample {}, &[logits, draws])
    }

    fn round(&mut self) -> NodeId {
        let (from, to) = (self.float(), self.float());
        let x = self.weight(from, &[3]);
        self.add(Round { to }, &[x])
    }

    fn effective(&mut self, op: &str) -> NodeId {
        let [k, d_out, d_in] = [3, 5, 12].map(|most| self.rng.between(1, most));
        let derive = self.rng.pick(Derive::ALL);
        let frozen = self.rng.below(k);
        let (a, b) = (self.float(), self.float());
        let mut operands = vec![self.weight(a, &[k, d_out]), self.weight(b, &[k, d_in])];
        let latents = if derive == Derive::Residual { 1 } else { k };
        operands.extend((0..latents).map(|_| {
            let dtype = self.float();
            self.weight(dtype, &[d_out, d_in])
        }));
        if op == "effective_weight" {
            return self.add(EffectiveWeight { derive, frozen }, &operands);
        }
        let dweight = self.value(&Type::fixed(DType::F32, &[d_out, d_in]));
        operands.insert(0, dweight);
        self.add(EffectiveScaleGrad { derive, frozen }, &operands)
    }
}
