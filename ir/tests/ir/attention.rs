//! Attention against its definition, and over several steps.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rabitc_ir::ops::attention::Attention;
use rabitc_ir::ops::source::Input;
use rabitc_ir::{DType, Dim, Graph, Interpreter, Tensor, Type};

use crate::support::{Rng, assert_close, compute, ints, rows};

fn op(n_kv_heads: usize, group: usize, head_dim: usize, window: usize, softcap: f32) -> Attention {
    Attention {
        n_heads: n_kv_heads * group,
        n_kv_heads,
        head_dim,
        scale: 0.7,
        window,
        softcap,
        layer: 3,
    }
}

/// Softmax over the whole T × T matrix of scores with a mask, head by head.
fn definition(a: &Attention, q: &Tensor, k: &Tensor, v: &Tensor) -> Vec<f64> {
    let (t, d) = (q.shape[0], a.head_dim);
    let at = |x: &Tensor, row: usize, head: usize, c: usize| {
        f64::from(x.floats()[row * x.shape[1] + head * d + c])
    };
    let mut out = vec![0.0; t * a.n_heads * d];
    for head in 0..a.n_heads {
        let shared = head * a.n_kv_heads / a.n_heads;
        for i in 0..t {
            let visible = |j: usize| j <= i && (a.window == 0 || i - j < a.window);
            let weight = |j: usize| {
                let dot: f64 = (0..d)
                    .map(|c| at(q, i, head, c) * at(k, j, shared, c))
                    .sum();
                let score = dot * f64::from(a.scale);
                let cap = f64::from(a.softcap);
                let score = if cap == 0.0 {
                    score
                } else {
                    cap * (score / cap).tanh()
                };
                if visible(j) { score.exp() } else { 0.0 }
            };
            let total: f64 = (0..t).map(weight).sum();
            for c in 0..d {
                let sum: f64 = (0..t).map(|j| weight(j) * at(v, j, shared, c)).sum();
                out[(i * a.n_heads + head) * d + c] = sum / total;
            }
        }
    }
    out
}

/// A graph of one attention op whose operands are inputs.
fn graph(a: &Attention) -> Graph {
    let mut graph = Graph::new("attention");
    let mut input = |name: &str, dtype, shape: Vec<Dim>| {
        let ty = Type::new(dtype, shape);
        let name = name.to_string();
        let node = Input {
            name: name.clone(),
            ty,
        };
        graph.add(&name, node, &[]).unwrap()
    };
    let width = |heads: usize| vec![Dim::Tokens, Dim::Fixed(heads * a.head_dim)];
    let operands = [
        input("q", DType::F32, width(a.n_heads)),
        input("k", DType::F32, width(a.n_kv_heads)),
        input("v", DType::F32, width(a.n_kv_heads)),
        input("positions", DType::I32, vec![Dim::Tokens]),
    ];
    let y = graph.add("y", a.clone(), &operands).unwrap();
    graph.set_output("y", y);
    graph
}

/// The inputs of a step that takes tokens `range` of q, k and v.
fn step(qkv: &[Tensor; 3], range: std::ops::Range<usize>) -> BTreeMap<String, Tensor> {
    let positions: Vec<i32> = range.clone().map(|p| p as i32).collect();
    let mut inputs = BTreeMap::from([("positions".to_string(), ints(&positions))]);
    for (name, x) in ["q", "k", "v"].into_iter().zip(qkv) {
        let d = x.shape[1];
        let data = x.floats()[range.start * d..range.end * d].to_vec();
        inputs.insert(name.to_string(), Tensor::f32(&[range.len(), d], data));
    }
    inputs
}

proptest! {
    #[test]
    fn attention_is_masked_softmax(
        (kv, group, d) in (1..4usize, 1..4usize, 1..6usize),
        (t, window, softcap) in (1..9usize, 0..10usize, prop_oneof![Just(0.0f32), 0.1f32..5.0]),
        seed in any::<u64>(),
    ) {
        let a = op(kv, group, d, window, softcap);
        let mut rng = Rng(seed);
        let qkv = [kv * group, kv, kv].map(|heads| rng.tensor(&[t, heads * d]));
        let positions: Vec<i32> = (0..t as i32).collect();
        let [q, k, v] = &qkv;
        let found = compute(a.clone(), &[q.clone(), k.clone(), v.clone(), ints(&positions)]);
        assert_close(&found, &definition(&a, q, k, v), 2e-7);
    }

    /// Steps of any lengths give what one step over all tokens gives, bit for bit.
    #[test]
    fn steps_give_what_one_prefill_gives(
        cuts in proptest::collection::btree_set(1..11usize, 0..11),
        window in 0..6usize,
        seed in any::<u64>(),
    ) {
        let a = op(2, 2, 3, window, 4.0);
        let mut rng = Rng(seed);
        let qkv = [4, 2, 2].map(|heads| rng.tensor(&[11, heads * 3]));
        let (graph, weights) = (graph(&a), BTreeMap::new());
        let whole = Interpreter::new(&graph, &weights).run(step(&qkv, 0..11)).unwrap();
        let mut stepwise = Interpreter::new(&graph, &weights);
        let (mut start, mut found) = (0, Vec::new());
        for end in cuts.into_iter().chain([11]) {
            let out = stepwise.run(step(&qkv, start..end)).unwrap();
            found.extend_from_slice(out["y"].floats());
            start = end;
        }
        prop_assert_eq!(found.as_slice(), whole["y"].floats());
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let a = op(1, 1, 1, 0, 0.0);
    let (q, k) = (rows(&[[1e4], [1e4]]), rows(&[[0.0], [1e4]]));
    let v = rows(&[[1.0], [2.0]]);
    let out = compute(a, &[q, k, v, ints(&[0, 1])]);
    assert_eq!(out, rows(&[[1.0], [2.0]]));
}

#[test]
fn positions_must_follow_the_cache() {
    let a = op(1, 1, 2, 0, 0.0);
    let qkv = [(); 3].map(|()| Tensor::f32(&[4, 2], vec![0.5; 8]));
    let (graph, weights) = (graph(&a), BTreeMap::new());
    let mut run = Interpreter::new(&graph, &weights);
    let mut refused = |range| {
        run.run(step(&qkv, range))
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    let skipped = "%y = attention: position 1 does not follow the 0 cached ones";
    assert_eq!(refused(1..2), Err(skipped.into()));
    assert_eq!(refused(0..2), Ok(()));
    let repeated = "%y = attention: position 1 does not follow the 2 cached ones";
    assert_eq!(refused(1..3), Err(repeated.into()));
    // A refused step leaves the cache as it was.
    assert_eq!(refused(2..4), Ok(()));
}
