//! The page.

use super::curves::curves;
use super::figures::{Figures, PathFigures};
use super::layers::layers;
use super::runs::{Run, start};
use super::svg::escape;

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
    let figures: Vec<_> = runs.iter().map(Figures::new).collect();
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
    out += &summary(&figures);
    out += &curves(runs);
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
fn summary(figures: &[Figures<'_>]) -> String {
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
    let value = |x: Option<f64>, digits: usize| match x {
        Some(x) => format!("{x:.digits$}"),
        None => "–".to_string(),
    };
    let rows = figures.iter().map(|f| {
        let correlation = |c: &Option<PathFigures<'_>>| c.as_ref().map(|c| c.weighted);
        vec![
            f.label(),
            f.steps.to_string(),
            count(f.tokens),
            value(f.first.map(|v| v.kl), 4),
            value(f.last.map(|v| v.kl), 4),
            value(f.first.map(|v| v.perplexity), 2),
            value(f.last.map(|v| v.perplexity), 2),
            value(f.last.map(|v| v.teacher_perplexity), 2),
            value(f.tokens_per_second, 0),
            value(correlation(&f.paths_first), 3),
            value(correlation(&f.paths_last), 3),
            value(Some(f.optimizer_per_binarized), 2),
        ]
    });
    table(&head, rows)
        + "<p class=\"note\">KL is the mean of KL(teacher ‖ student) over the validation text in \
           nats a token. Correlation is the mean over layers and pairs of paths, weighted by the \
           second moment of the layers' inputs. Optimizer bytes are those of the moments for each \
           binarized weight.</p>\n"
}

/// A number of tokens.
fn count(tokens: u64) -> String {
    match tokens {
        0..100_000 => tokens.to_string(),
        100_000..10_000_000 => format!("{:.2} M", tokens as f64 / 1e6),
        _ => format!("{:.1} M", tokens as f64 / 1e6),
    }
}

/// A chart under its title; nothing if it shows nothing.
pub(super) fn section(title: &str, chart: &str) -> String {
    match chart {
        "" => String::new(),
        chart => format!("<h2>{}</h2>\n{chart}", escape(title)),
    }
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
