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
    const KL: &str = "KL, nats";
    let charts = [
        (
            "Validation: KL to the teacher",
            KL,
            true,
            measured(runs, |v| v.kl),
        ),
        (
            "Validation: perplexity",
            "perplexity",
            true,
            measured(runs, |v| v.perplexity),
        ),
        (
            "Training: KL to the teacher",
            KL,
            true,
            stepped(runs, |s| Some(s.kl)),
        ),
        (
            "Training: error of the hidden states",
            "normalised error",
            true,
            stepped(runs, |s| s.hidden),
        ),
        (
            "Training: cross-entropy with the text",
            "nats",
            true,
            stepped(runs, |s| s.text),
        ),
        // Paths that are correlated negatively overlap negatively.
        (
            "Training: overlap of paths",
            "share of the energy",
            false,
            stepped(runs, |s| s.diversity),
        ),
        (
            "Training: norm of the gradient, before clipping",
            "norm",
            true,
            stepped(runs, |s| Some(s.gradient_norm)),
        ),
        ("Learning rate", "rate", false, rates(runs)),
    ];
    let sections = charts.into_iter().map(|(title, y, log, lines)| {
        let axes = Axes {
            x: "step",
            y,
            log,
            names: &[],
        };
        section(title, &chart(&lines, &axes))
    });
    sections.collect()
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

fn stepped(runs: &[Run], pick: fn(&StepRecord) -> Option<f64>) -> Vec<Line> {
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
