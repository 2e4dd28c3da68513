//! Straight-through estimates against their definition.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rabitc_ir::interp::eval_constant;
use rabitc_ir::ops::effective_weight::{Derive, EffectiveWeight};
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::residual_sign::ResidualSign;
use rabitc_ir::ops::round::Round;
use rabitc_ir::ops::squared_error::{Normalize, SquaredError};
use rabitc_ir::{DType, Graph, NodeId, Tensor};
use rabitc_passes::autodiff::autodiff;

use super::{Rng, Values, differentiated, request, run, weight};

/// A layer of `paths` paths on `t` rows, and its squared distance from a target.
struct Layer {
    graph: Graph,
    store: Values<f32>,
    latents: Vec<String>,
    shape: [usize; 4],
}

const ROWS: usize = 3;

impl Layer {
    fn new(derive: Derive, frozen: usize, [k, d_out, d_in]: [usize; 3], seed: u64) -> Layer {
        let mut rng = Rng(seed);
        let (mut graph, mut store) = (Graph::new("layer"), BTreeMap::new());
        let mut add =
            |name: &str, shape: &[usize]| weight(&mut graph, &mut store, name, rng.tensor(shape));
        let (x, target) = (add("x", &[ROWS, d_in]), add("target", &[ROWS, d_out]));
        let mut operands = vec![add("g", &[k, d_out]), add("h", &[k, d_in])];
        let count = if derive == Derive::Residual { 1 } else { k };
        let latents: Vec<_> = (0..count).map(|i| format!("w{i}")).collect();
        operands.extend(latents.iter().map(|name| add(name, &[d_out, d_in])));
        let op = EffectiveWeight { derive, frozen };
        let effective = graph.add("effective", op, &operands).unwrap();
        let y = graph.add("y", Linear {}, &[x, effective]).unwrap();
        let normalize = Normalize::Elements;
        let loss = SquaredError { normalize };
        let loss = graph.add("loss", loss, &[y, target]).unwrap();
        graph.set_output("loss", loss);
        Layer {
            graph,
            store,
            latents,
            shape: [k, d_out, d_in, frozen],
        }
    }

    /// ±1 for every path and weight: from `residual_sign`, or the latent weights' own signs.
    fn cores(&self) -> Vec<f64> {
        let [k, d_out, d_in, _] = self.shape;
        if self.latents.len() == k && k > 1 {
            let all = self.latents.iter().flat_map(|n| self.store[n].floats());
            return all.map(|w| if *w >= 0.0 { 1.0 } else { -1.0 }).collect();
        }
        let mut graph = Graph::new("signs");
        let mut source = |name: &str| -> NodeId {
            weight(
                &mut graph,
                &mut BTreeMap::new(),
                name,
                self.store[name].clone(),
            )
        };
        let operands = [source("w0"), source("g"), source("h")];
        let signs = graph.add("signs", ResidualSign {}, &operands).unwrap();
        let signs = eval_constant(&graph, signs, &self.store).unwrap();
        let all = (0..k * d_out).flat_map(|row| (0..d_in).map(move |j| (row, j)));
        all.map(|(row, j)| f64::from(signs.sign(row, j))).collect()
    }

    /// The loss for scales `g` and `h`, the cores held constant.
    fn loss(&self, cores: &[f64], g: &[f64], h: &[f64]) -> f64 {
        let [k, d_out, d_in, _] = self.shape;
        let (x, target) = (self.store["x"].floats(), self.store["target"].floats());
        let mut sum = 0.0;
        for t in 0..ROWS {
            for row in 0..d_out {
                let mut y = 0.0;
                for (i, j) in (0..k).flat_map(|i| (0..d_in).map(move |j| (i, j))) {
                    let core = cores[(i * d_out + row) * d_in + j];
                    let scale = g[i * d_out + row] * h[i * d_in + j];
                    y += core * scale * f64::from(x[t * d_in + j]);
                }
                sum += (y - f64::from(target[t * d_out + row])).powi(2);
            }
        }
        sum / (ROWS * d_out) as f64
    }
}

fn wide(tensor: &Tensor) -> Vec<f64> {
    tensor.floats().iter().map(|x| f64::from(*x)).collect()
}

/// The loss is quadratic in each scale: a central difference has rounding errors only.
#[track_caller]
fn assert_scales(layer: &Layer, outputs: &Values<f64>) {
    let [k, d_out, d_in, frozen] = layer.shape;
    let (cores, g, h) = (
        layer.cores(),
        wide(&layer.store["g"]),
        wide(&layer.store["h"]),
    );
    let loss = layer.loss(&cores, &g, &h);
    assert!((outputs["loss"].floats()[0] - loss).abs() <= 1e-12 * (1.0 + loss));
    let step = 1e-3;
    for (name, width) in [("g", d_out), ("h", d_in)] {
        for i in 0..k * width {
            let moved = |by: f64| {
                let (mut g, mut h) = (g.clone(), h.clone());
                if name == "g" {
                    g[i] += by
                } else {
                    h[i] += by
                }
                layer.loss(&cores, &g, &h)
            };
            let slope = (moved(step) - moved(-step)) / (2.0 * step);
            let expected = if i / width < frozen { 0.0 } else { slope };
            let found = outputs[&format!("grad.{name}")].floats()[i];
            assert!(
                (found - expected).abs() <= 1e-10 * (1.0 + loss),
                "{name}[{i}]: {found}, not {expected}"
            );
        }
    }
}

proptest! {
    #[test]
    fn a_shared_latent_weight_gets_the_effective_weights_gradient(
        shape in [1..4usize, 1..6, 1..11],
        seed in any::<u64>(),
    ) {
        let layer = Layer::new(Derive::Residual, 0, shape, seed);
        let mut asked = request(&["w0", "g", "h"]);
        asked.values.push("effective".into());
        let outputs = run(&differentiated(&layer.graph, &asked), &layer.store, &BTreeMap::new());
        prop_assert_eq!(&outputs["grad.w0"], &outputs["grad.effective"]);
        assert_scales(&layer, &outputs);
    }

    #[test]
    fn latent_weights_of_their_own_get_it_each(
        [k, d_out, d_in] in [2..4usize, 1..6, 1..11],
        frozen in 0..2usize,
        seed in any::<u64>(),
    ) {
        let layer = Layer::new(Derive::Independent, frozen, [k, d_out, d_in], seed);
        let trained: Vec<_> = layer.latents[frozen..].iter().map(String::as_str).collect();
        let mut asked = request(&[&trained[..], &["g", "h"]].concat());
        asked.values.push("effective".into());
        let outputs = run(&differentiated(&layer.graph, &asked), &layer.store, &BTreeMap::new());
        for name in trained {
            prop_assert_eq!(&outputs[&format!("grad.{name}")], &outputs["grad.effective"]);
        }
        assert_scales(&layer, &outputs);
    }
}

#[test]
fn a_frozen_path_has_no_gradient() {
    let layer = Layer::new(Derive::Independent, 1, [2, 3, 4], 5);
    let mut graph = layer.graph.clone();
    let error = autodiff(&mut graph, &request(&["w0"])).unwrap_err();
    let expected = "%effective = effective_weight has no gradient: none with respect to its \
                    operand `latents0`";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn rounding_passes_the_gradient_as_it_is() {
    let (mut graph, mut store) = (Graph::new("g"), BTreeMap::new());
    let x = weight(&mut graph, &mut store, "x", Rng(3).tensor(&[2, 3]));
    let target = weight(&mut graph, &mut store, "target", Rng(4).tensor(&[2, 3]));
    let rounded = graph
        .add("rounded", Round { to: DType::BF16 }, &[x])
        .unwrap();
    let normalize = Normalize::Elements;
    let loss = graph.add("loss", SquaredError { normalize }, &[rounded, target]);
    graph.set_output("loss", loss.unwrap());
    let mut asked = request(&["x"]);
    asked.values.push("rounded".into());
    let outputs = run(&differentiated(&graph, &asked), &store, &BTreeMap::new());
    assert_eq!(outputs["grad.x"], outputs["grad.rounded"]);
    // At what was rounded, not at what it was before.
    let rounded = half::bf16::from_f32(store["x"].floats()[0]).to_f64();
    let slope = 2.0 / 6.0 * (rounded - f64::from(store["target"].floats()[0]));
    assert!((outputs["grad.x"].floats()[0] - slope).abs() < 1e-14);
}
