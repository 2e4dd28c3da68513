//! Charts over the layers.

use super::page::section;
use super::runs::Run;
use super::svg::{Axes, Line, chart};
use crate::diagnostics::{LayerReport, mean};

/// How the paths of each layer relate, and what they miss.
pub(super) fn layers(runs: &[Run]) -> String {
    type Pick = fn(&LayerReport) -> f64;
    let charts: [(&str, &str, Pick); 4] = [
        (
            "Correlation of paths by layer, weighted",
            "correlation",
            |l| mean(&l.weighted),
        ),
        ("Correlation of paths by layer, plain", "correlation", |l| {
            mean(&l.plain)
        }),
        (
            "Error by layer",
            "share of the energy",
            LayerReport::relative_error,
        ),
        (
            "2 × covariance of paths by layer",
            "share of the energy",
            LayerReport::relative_covariance,
        ),
    ];
    let longest = runs
        .iter()
        .flat_map(|run| &run.layers)
        .max_by_key(|(_, l)| l.len());
    let names: Vec<String> = longest.map_or(Vec::new(), |(_, layers)| {
        let short = |name: &str| name.trim_start_matches("model.layers.").to_string();
        layers.iter().map(|l| short(&l.layer)).collect()
    });
    let sections = charts.into_iter().map(|(title, y, pick)| {
        let axes = Axes {
            x: "layer",
            y,
            log: false,
            names: &names,
        };
        section(title, &chart(&layer_lines(runs, pick), &axes))
    });
    let note = "<p class=\"note\">On the teacher's own inputs: y is the dense layer's output, ŷ_i \
                that of path i. The error is E(y − Σ ŷ_i)² = E y² − 2 E y Σ ŷ_i + Σ E ŷ_i² + 2 Σ \
                E ŷ_i ŷ_j, as a share of E y². Dashed: before training.</p>\n";
    let sections: String = sections.collect();
    match sections.is_empty() {
        true => sections,
        false => sections + note,
    }
}

/// For each run the first comparison in dashes and the last.
fn layer_lines(runs: &[Run], pick: fn(&LayerReport) -> f64) -> Vec<Line> {
    let mut lines = Vec::new();
    for (colour, run) in runs.iter().enumerate() {
        let last = run.layers.len().saturating_sub(1);
        for (n, (step, layers)) in run.layers.iter().enumerate() {
            if n != 0 && n != last {
                continue;
            }
            let points = layers.iter().enumerate();
            lines.push(Line {
                label: format!("{}, step {step}", run.label()),
                points: points.map(|(i, l)| (i as f64, pick(l))).collect(),
                dashed: n == 0 && last > 0,
                colour,
            });
        }
    }
    lines
}
