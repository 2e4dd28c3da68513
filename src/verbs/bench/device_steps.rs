//! The time of every part of a step on a GPU, and of steps for several tokens.

use anyhow::{Context, Result, bail};
use rabitc_runtime::Session;
use rabitc_runtime::cuda::profile::{Kind, OTHERS, PRODUCTS, Part, Profile, STEP};
use serde::Serialize;

use crate::ui::{self, Align, Table};
use crate::verbs::inspect::group;

/// The parts of a step, as `--steps --output json` prints them. The field names are an interface.
#[derive(Debug, Serialize)]
pub struct Parts {
    tokens: usize,
    bandwidth_bytes_per_second: f64,
    parts: Vec<PartTime>,
}

/// One part of a step.
#[derive(Debug, Serialize)]
struct PartTime {
    kind: Kind,
    /// The kernel, or what the group is.
    name: String,
    /// The nodes that its launches compute, those that differ in a number joined; of a kernel only.
    nodes: Vec<String>,
    launches: usize,
    /// Of all its launches, one after the other.
    microseconds: f64,
    /// Of weights, where that is known.
    bytes: u64,
}

/// Measures the parts of a step for each of the numbers of tokens after `depth` positions.
pub fn parts(session: &mut Session, depth: usize, tokens: &[usize]) -> Result<Vec<Parts>> {
    fill(session, depth)?;
    let measured = tokens.iter().map(|&n| {
        let profile = profile(session, n)?;
        Ok(Parts {
            tokens: n,
            bandwidth_bytes_per_second: profile.read_bandwidth,
            parts: profile.parts.into_iter().map(PartTime::from).collect(),
        })
    });
    measured.collect()
}

impl From<Part> for PartTime {
    fn from(part: Part) -> PartTime {
        PartTime {
            kind: part.kind,
            name: part.name,
            nodes: group::names(part.nodes.iter().map(String::as_str)),
            launches: part.launches,
            microseconds: part.microseconds,
            bytes: part.bytes,
        }
    }
}

/// The parts as Markdown tables, one a number of tokens.
pub fn render_parts(steps: &[Parts]) -> String {
    let tables = steps.iter().map(|step| {
        let title = match step.tokens {
            1 => String::new(),
            n => format!("\n{n} tokens:\n\n"),
        };
        title + &render(step)
    });
    tables.collect()
}

/// What a step for several tokens takes.
#[derive(Debug, Serialize)]
pub struct TokenStep {
    tokens: usize,
    products_microseconds: f64,
    others_microseconds: f64,
    step_microseconds: f64,
    tokens_per_second: f64,
    /// Products, relative to those of the first number of tokens.
    products_ratio: f64,
    /// The whole step, likewise.
    step_ratio: f64,
}

/// Measures steps for each of the numbers of tokens after `depth` positions.
pub fn steps(session: &mut Session, depth: usize, tokens: &[usize]) -> Result<Vec<TokenStep>> {
    if !session.is_on_gpu() {
        bail!("--tokens measures steps on a GPU: add --device cuda");
    }
    fill(session, depth)?;
    let mut steps: Vec<TokenStep> = Vec::new();
    for &n in tokens {
        let profile = profile(session, n)?;
        let time = |name: &str| {
            let part = profile.parts.iter().find(|p| p.name == name);
            part.map_or(f64::NAN, |p| p.microseconds)
        };
        let (products, step) = (time(PRODUCTS), time(STEP));
        let first = steps.first();
        steps.push(TokenStep {
            tokens: n,
            products_microseconds: products,
            others_microseconds: time(OTHERS),
            step_microseconds: step,
            tokens_per_second: n as f64 / step * 1e6,
            products_ratio: products / first.map_or(products, |f| f.products_microseconds),
            step_ratio: step / first.map_or(step, |f| f.step_microseconds),
        });
    }
    Ok(steps)
}

/// The steps as a Markdown table.
pub fn render_steps(steps: &[TokenStep]) -> String {
    let right = |name| (name, Align::Right);
    let mut table = Table::new(&[
        right("tokens"),
        right("products µs"),
        right("× first"),
        right("others µs"),
        right("step µs"),
        right("× first"),
        right("tokens/s"),
    ]);
    for s in steps {
        table.row([
            s.tokens.to_string(),
            format!("{:.1}", s.products_microseconds),
            format!("{:.2}", s.products_ratio),
            format!("{:.1}", s.others_microseconds),
            format!("{:.1}", s.step_microseconds),
            format!("{:.2}", s.step_ratio),
            ui::digits(s.tokens_per_second),
        ]);
    }
    table.to_string()
}

/// The steps as lines of numbers, with titles.
pub fn csv(steps: &[TokenStep]) -> String {
    let mut out = String::from(
        "tokens,products_microseconds,others_microseconds,step_microseconds,tokens_per_second,\
         products_ratio,step_ratio\n",
    );
    for s in steps {
        let fields = [
            s.products_microseconds,
            s.others_microseconds,
            s.step_microseconds,
            s.tokens_per_second,
            s.products_ratio,
            s.step_ratio,
        ];
        let fields = fields.map(|f| f.to_string()).join(",");
        out.push_str(&format!("{},{fields}\n", s.tokens));
    }
    out
}

fn fill(session: &mut Session, depth: usize) -> Result<()> {
    if depth > 0 {
        session.read(&vec![0; depth], &mut |_| {})?;
    }
    Ok(())
}

fn profile(session: &mut Session, tokens: usize) -> Result<Profile> {
    let profile = session.profile(tokens).transpose()?;
    profile.context("the model does not run on a GPU")
}

fn render(step: &Parts) -> String {
    let mut table = Table::new(&[
        ("part", Align::Left),
        ("launches", Align::Right),
        ("µs", Align::Right),
        ("µs a launch", Align::Right),
        ("weights", Align::Right),
        ("of read bandwidth", Align::Right),
    ]);
    for part in &step.parts {
        table.row([
            part.name.clone(),
            part.launches.to_string(),
            format!("{:.1}", part.microseconds),
            format!("{:.2}", part.microseconds / part.launches.max(1) as f64),
            ui::size(part.bytes),
            share(part, step.bandwidth_bytes_per_second),
        ]);
    }
    format!(
        "{table}\nRead bandwidth {}/s.\n",
        ui::size(step.bandwidth_bytes_per_second as u64)
    )
}

fn share(part: &PartTime, bandwidth: f64) -> String {
    let floor = part.bytes as f64 / bandwidth * 1e6;
    format!("{:.0}%", 100.0 * floor / part.microseconds.max(1e-9))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(tokens: usize, ratio: f64) -> TokenStep {
        TokenStep {
            tokens,
            products_microseconds: 100.0 * ratio,
            others_microseconds: 50.0,
            step_microseconds: 125.0 * ratio,
            tokens_per_second: 8000.0 * tokens as f64 / ratio,
            products_ratio: ratio,
            step_ratio: ratio,
        }
    }

    #[test]
    fn steps_have_a_line_each_in_every_form() {
        let steps = [step(1, 1.0), step(4, 1.25)];
        let table = render_steps(&steps);
        assert_eq!(table.lines().count(), 4);
        assert!(table.contains("1.25"), "{table}");
        let csv = csv(&steps);
        let lines: Vec<_> = csv.lines().collect();
        assert_eq!(lines[2], "4,125,50,156.25,25600,1.25,1.25");
        let columns = lines.iter().map(|l| l.split(',').count());
        assert!(columns.into_iter().all(|n| n == 7), "{csv}");
    }
}
