//! Charts over the steps.

use super::page::section;
use super::runs::Run;
use super::svg::{Axes, Line, chart};
use crate::metrics::{StepRecord, ValidationRecord};

/// Points of a line.
type Points = Vec<(f64, f64)>;

/// Measurements, the parts of the loss, the gradient and the learning rates, each by step. What no
/// run has is left out.
pub(super) fn curves(runs: &[Run]) -> String {
    type Validated = fn(&ValidationRecord) -> f64;
    let validated: [(&str, &str, Validated); 2] = [
        ("Validation: KL to the teacher", "KL, nats", |v| v.kl),
        ("Validation: perplexity", "perplexity", |v| v.perplexity),
    ];
    let mut out = String::new();
    for (title, y, pick) in validated {
        out += &curve(title, y, true, &measured(runs, pick));
    }
    for (title, y, log, pick) in PARTS {
        out += &curve(title, y, log, &stepped(runs, pick));
    }
    out + &curve("Learning rate", "rate", false, &rates(runs))
}

/// What is recorded of every update: title, unit, whether the axis is logarithmic, and the value.
const PARTS: [(&str, &str, bool, Pick); 5] = [
    ("Training: KL to the teacher", "KL, nats", true, |s| {
        Some(s.kl)
    }),
    (
        "Training: error of the hidden states",
        "normalised error",
        true,
        |s| s.hidden,
    ),
    ("Training: cross-entropy with the text", "nats", true, |s| {
        s.text
    }),
    // Paths that are correlated negatively overlap negatively.
    (
        "Training: overlap of paths",
        "share of the energy",
        false,
        |s| s.diversity,
    ),
    (
        "Training: norm of the gradient, before clipping",
        "norm",
        true,
        |s| Some(s.gradient_norm),
    ),
];

/// A value of an update, if it has it.
type Pick = fn(&StepRecord) -> Option<f64>;

fn curve(title: &str, y: &str, log: bool, lines: &[Line]) -> String {
    let axes = Axes {
        x: "step",
        y,
        log,
        names: &[],
    };
    section(title, &chart(lines, &axes))
}

/// A line for each run that has points.
fn lines(runs: &[Run], points: impl Fn(&Run) -> Points) -> Vec<Line> {
    let lines = runs.iter().enumerate().map(|(colour, run)| Line {
        label: run.label(),
        points: points(run),
        dashed: false,
        colour,
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}

fn stepped(runs: &[Run], pick: Pick) -> Vec<Line> {
    lines(runs, |run| {
        let steps = run.steps.iter();
        steps
            .filter_map(|s| Some((s.step as f64, pick(s)?)))
            .collect()
    })
}

fn measured(runs: &[Run], pick: fn(&ValidationRecord) -> f64) -> Vec<Line> {
    lines(runs, |run| {
        let validations = run.validations.iter();
        validations.map(|v| (v.step as f64, pick(v))).collect()
    })
}

/// The learning rates of all groups of one run, or of several runs those of latent weights, which
/// have the same shape as the others.
fn rates(runs: &[Run]) -> Vec<Line> {
    let of_group = |run: &Run, group: usize| -> Points {
        let rate = |s: &StepRecord| s.rates.get(group).map(|rate| f64::from(*rate));
        let steps = run.steps.iter();
        steps
            .filter_map(|s| Some((s.step as f64, rate(s)?)))
            .filter(|(_, rate)| *rate > 0.0)
            .collect()
    };
    let [run] = runs else {
        return lines(runs, |run| of_group(run, 0));
    };
    let groups = ["latent weights", "scales", "the rest"];
    let lines = groups.iter().enumerate().map(|(group, name)| Line {
        label: name.to_string(),
        points: of_group(run, group),
        dashed: false,
        colour: group,
    });
    lines.filter(|line| !line.points.is_empty()).collect()
}
