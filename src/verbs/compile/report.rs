//! What `compile` prints at the end.

use std::collections::BTreeMap;

use rabitc::compile::Summary;
use rabitc::tune::shapes::of_artifact;
use rabitc_passes::tiles::LayerShape;
use rabitc_rbx::{GpuTarget, Layer};
use serde_json::json;

use crate::ui::{Align, Table, size};
use crate::verbs::inspect::group::group;

/// Tiles by shape, as they were measured.
type Tuned = BTreeMap<LayerShape, usize>;

/// Layers, shapes, bits per weight, kernels, sizes and times.
pub fn table(summary: &Summary, tuned: &Tuned) -> String {
    let mut table = Table::new(&[
        ("layers", Align::Left),
        ("form", Align::Left),
        ("outputs × inputs", Align::Left),
        ("bits/weight", Align::Right),
        ("before", Align::Right),
        ("after", Align::Right),
        ("kernel", Align::Left),
    ]);
    for group in group(&summary.manifest.layers) {
        let (layer, count) = (group.layer, group.count() as u64);
        table.row([
            group.name(),
            form(layer),
            shape(layer),
            format!("{:.2}", bits(layer)),
            size(layer.source_bytes * count),
            size(layer.bytes * count),
            layer.kernels.last().cloned().unwrap_or_default(),
        ]);
    }
    let levels = summary.manifest.targets.iter().map(|t| t.level.to_string());
    let levels = levels.chain(summary.manifest.gpus.iter().map(|g| g.arch.to_string()));
    let times = summary.times.iter();
    let times = times.map(|(name, t)| format!("{name} {:.2} s", t.as_secs_f64()));
    let tiles = match tuned.is_empty() {
        true => String::new(),
        false => {
            let [measured, other] = origins(summary, tuned);
            format!("tiles: {measured} layers as measured, {other} by the heuristic\n")
        }
    };
    let products = summary.manifest.gpus.iter().map(products);
    let products: String = products.collect();
    format!(
        "{table}\ncheckpoint {}, artifact {}; code for {}\n{tiles}{products}{}\n",
        size(summary.source_bytes),
        size(summary.output_bytes),
        levels.collect::<Vec<_>>().join(", "),
        times.collect::<Vec<_>>().join(", "),
    )
}

/// What the choices of a GPU target's products rest on.
fn products(target: &GpuTarget) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in target.kernels.iter().filter_map(|k| k.chosen_by.as_deref()) {
        *counts.entry(reason).or_default() += 1;
    }
    let counts = counts.iter().map(|(reason, n)| format!("{n} {reason}"));
    let counts: Vec<String> = counts.collect();
    match counts.is_empty() {
        true => String::new(),
        false => format!(
            "tiles of products on {}: {}\n",
            target.arch,
            counts.join(", ")
        ),
    }
}

/// How many residual-binary layers have tiles as measured, and by the heuristic.
fn origins(summary: &Summary, tuned: &Tuned) -> [usize; 2] {
    let mut counts = [0, 0];
    let activations = summary.manifest.activations.parse();
    for demand in activations.map_or(Vec::new(), |a| of_artifact(&summary.manifest, a)) {
        counts[usize::from(!tuned.contains_key(&demand.shape))] += demand.layers;
    }
    counts
}

fn form(layer: &Layer) -> String {
    match layer.paths {
        0 => layer.form.clone(),
        1 => format!("{}, 1 path", layer.form),
        paths => format!("{}, {paths} paths", layer.form),
    }
}

fn shape(layer: &Layer) -> String {
    let segments: Vec<_> = layer.segments.iter().map(usize::to_string).collect();
    format!("{} × {}", segments.join("+"), layer.d_in)
}

fn bits(layer: &Layer) -> f64 {
    let weights = layer.segments.iter().sum::<usize>() as f64 * layer.d_in as f64;
    layer.bytes as f64 * 8.0 / weights.max(1.0)
}

/// The same for scripts.
pub fn json(summary: &Summary, tuned: &Tuned) -> serde_json::Value {
    let [measured, heuristic] = origins(summary, tuned);
    let times = summary.times.iter().map(|(n, t)| (*n, t.as_secs_f64()));
    json!({
        "source_bytes": summary.source_bytes,
        "output_bytes": summary.output_bytes,
        "seconds": times.collect::<BTreeMap<_, _>>(),
        "model": summary.manifest.model,
        "layers": summary.manifest.layers,
        "targets": summary.manifest.targets,
        "tiles": {"tuned": measured, "heuristic": heuristic},
        "gpus": summary.manifest.gpus.iter().map(|g| g.arch.to_string()).collect::<Vec<_>>(),
    })
}
