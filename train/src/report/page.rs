//! The page.

use super::runs::{Run, start};
use super::svg::{Axes, Line, chart, escape};
use crate::diagnostics::{LayerReport, mean};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2em auto;padding:0 1em;\
color:#222;background:#fff}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}\
.wide{overflow-x:auto}table{border-collapse:collapse}\
td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}\
svg{width:100%;height:auto}svg text{font-size:11px;fill:currentColor}\
.grid{stroke:#8884;stroke-width:1}.axis{stroke:currentColor;fill:none}\
.legend span{margin-right:1.2em;white-space:nowrap}.legend i{display:inline-block;width:2em;\
vertical-align:middle;margin-right:.4em}p.note{color:#666}\
@media(prefers-color-scheme:dark){body{color:#ddd;background:#16181b}\
td,th{border-color:#444}p.note{color:#999}}";

/// The page about these runs.
pub(super) fn page(runs: &[Run]) -> String {
    let title = match runs {
        [run] => format!("Training of {}", run.name),
        runs => format!("Training: {} runs", runs.len()),
    };
    let title = escape(&title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
    );
    out += &summary(runs);
    out += &losses(runs);
    out += &layers(runs);
    out += &settings(runs);
    out + "</body></html>\n"
}

fn table(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: Vec<String>| {
        let cells = cells
            .iter()
            .map(|c| format!("<{tag}>{}</{tag}>", escape(c)));
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let head = cells("th", head.iter().map(|c| c.to_string()).collect());
    let rows: String = rows.map(|row| cells("td", row)).collect();
    format!("<div class=\"wide\"><table>{head}{rows}</table></div>\n")
}

/// What each run reached.
fn summary(runs: &[Run]) -> String {
    let head = [
        "run",
        "steps",
        "tokens",
        "KL first",
        "KL last",
        "perplexity first",
        "last",
        "teacher",
        "tokens/s",
        "correlation first",
        "last",
        "optimizer B/weight",
    ];
    let rows = runs.iter().map(|run| {
        let (first, last) = (run.validations.first(), run.validations.last());
        let value = |x: Option<f64>, digits: usize| match x {
            Some(x) => format!("{x:.digits$}"),
            None => "–".to_string(),
        };
        let steps = run.steps.last();
        let correlations = run.correlations().map(|c| c.map(|(_, weighted)| weighted));
        vec![
            run.label(),
            steps.map_or(0, |s| s.step).to_string(),
            millions(steps.map_or(0, |s| s.tokens)),
            value(first.map(|v| v.kl), 4),
            value(last.map(|v| v.kl), 4),
            value(first.map(|v| v.perplexity), 2),
            value(last.map(|v| v.perplexity), 2),
            value(last.map(|v| v.teacher_perplexity), 2),
            value(run.tokens_per_second(), 0),
            value(correlations.map(|c| c[0]), 3),
            value(correlations.map(|c| c[1]), 3),
            value(Some(run.about.memory.optimizer_per_binarized), 2),
        ]
    });
    table(&head, rows)
        + "<p class=\"note\">KL is the mean of KL(teacher ‖ student) over the validation text in \
           nats a token. Correlation is the mean over layers and pairs of paths, weighted by the \
           second moment of the layers' inputs. Optimizer bytes are those of the moments for each \
           binarized weight.</p>\n"
}

fn millions(tokens: u64) -> String {
    match tokens < 10_000_000 {
        true => format!("{:.2} M", tokens as f64 / 1e6),
        false => format!("{:.1} M", tokens as f64 / 1e6),
    }
}

/// Charts over the steps.
fn losses(runs: &[Run]) -> String {
    let lines = |points: &dyn Fn(&Run) -> Vec<(f64, f64)>| -> Vec<Line> {
        let lines = runs.iter().enumerate().map(|(colour, run)| Line {
            label: run.label(),
            points: points(run),
            dashed: false,
            colour,
        });
        lines.collect()
    };
    let at_steps = |pick: fn(&crate::metrics::StepRecord) -> f64| {
        lines(&move |run: &Run| run.steps.iter().map(|s| (s.step as f64, pick(s))).collect())
    };
    let at_validations = |pick: fn(&crate::metrics::ValidationRecord) -> f64| {
        lines(&move |run: &Run| {
            let validations = run.validations.iter();
            validations.map(|v| (v.step as f64, pick(v))).collect()
        })
    };
    let charts = [
        (
            "Validation: KL to the teacher",
            "KL, nats",
            at_validations(|v| v.kl),
        ),
        (
            "Validation: perplexity",
            "perplexity",
            at_validations(|v| v.perplexity),
        ),
        (
            "Training: KL to the teacher",
            "KL, nats",
            at_steps(|s| s.kl),
        ),
        (
            "Training: error of the hidden states",
            "normalised error",
            at_steps(|s| s.hidden),
        ),
        (
            "Training: norm of the gradient",
            "norm",
            at_steps(|s| s.gradient_norm),
        ),
    ];
    let sections = charts.into_iter().map(|(title, y, lines)| {
        let axes = Axes {
            x: "step",
            y,
            log: true,
            names: &[],
        };
        section(title, &chart(&lines, &axes), "")
    });
    sections.collect()
}

fn section(title: &str, chart: &str, note: &str) -> String {
    match chart {
        "" => String::new(),
        chart => format!("<h2>{}</h2>\n{chart}{note}", escape(title)),
    }
}

/// Charts over the layers.
fn layers(runs: &[Run]) -> String {
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
        ("Error by layer", "share of the energy", |l| {
            l.relative_error()
        }),
        (
            "2 × covariance of paths by layer",
            "share of the energy",
            |l| {
                if l.energy > 0.0 {
                    l.covariance / l.energy
                } else {
                    0.0
                }
            },
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
        section(title, &chart(&layer_lines(runs, pick), &axes), "")
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

/// The recipes.
fn settings(runs: &[Run]) -> String {
    let head = [
        "run",
        "initialisation",
        "batch",
        "lr shared",
        "scales",
        "rest",
        "γ hidden",
        "α text",
        "λ diversity",
        "clip",
        "weights",
        "seed",
        "engine",
    ];
    let rows = runs.iter().map(|run| {
        let r = &run.about.recipe;
        let rates = r.optimizer.rates;
        vec![
            run.label(),
            start(r),
            format!("{}×{}×{}", r.accumulate, r.batch, r.seq_len),
            rates.shared.to_string(),
            rates.scales.to_string(),
            rates.rest.to_string(),
            format!("{} {}", r.loss.hidden, r.loss.hidden_norm.name()),
            r.loss.text.to_string(),
            r.loss.diversity.to_string(),
            r.optimizer.clip.to_string(),
            r.weights.name().to_string(),
            r.seed.to_string(),
            run.about.engine.clone(),
        ]
    });
    format!("<h2>Settings</h2>\n{}", table(&head, rows))
}
