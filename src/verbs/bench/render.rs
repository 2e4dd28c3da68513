//! The result as a Markdown table, JSON or CSV.

use anyhow::Result;
use rabitc_runtime::Session;
use serde::Serialize;

use super::measure::{Plan, Samples};
use super::stats::Stats;
use super::traffic::Traffic;
use crate::ui::{self, Align, Table};

/// What `--output json` prints. The field names are an interface.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    architecture: String,
    artifact_bytes: u64,
    activations: String,
    cpu: Option<String>,
    cpu_level: String,
    threads: usize,
    depth: usize,
    tests: Vec<Test>,
    bandwidth_bytes_per_second: Stats,
}

/// One test's result.
#[derive(Debug, Serialize)]
struct Test {
    test: String,
    tokens: usize,
    tokens_per_second: Stats,
    /// Of generated tokens.
    bytes_per_token: Option<f64>,
    /// At the median speed.
    bytes_per_second: Option<f64>,
    /// Of the median bandwidth.
    bandwidth_share: Option<f64>,
}

impl Report {
    /// Puts measurements in relation to what a token reads.
    pub fn new(
        session: &Session,
        threads: usize,
        plan: &Plan,
        samples: &Samples,
    ) -> Result<Report> {
        let model = session.model();
        let traffic = Traffic::of(session)?;
        let bandwidth = stats(&samples.bandwidth);
        let mut tests = Vec::new();
        if let Some(stats) = Stats::of(&samples.prompt) {
            tests.push(Test {
                test: title("prompt", plan.prompt, plan.depth),
                tokens: plan.prompt,
                tokens_per_second: stats,
                bytes_per_token: None,
                bytes_per_second: None,
                bandwidth_share: None,
            });
        }
        if let Some(stats) = Stats::of(&samples.generate) {
            let bytes = traffic.mean(plan.depth, plan.generate);
            let rate = bytes * stats.median;
            tests.push(Test {
                test: title("generate", plan.generate, plan.depth),
                tokens: plan.generate,
                tokens_per_second: stats,
                bytes_per_token: Some(bytes),
                bytes_per_second: Some(rate),
                bandwidth_share: Some(rate / bandwidth.median),
            });
        }
        let path = model.artifact().path();
        let file = path.file_name().unwrap_or(path.as_os_str());
        Ok(Report {
            model: file.to_string_lossy().into_owned(),
            architecture: model.manifest().model.architecture.clone(),
            artifact_bytes: model.artifact().file_bytes() as u64,
            activations: model.activations(),
            cpu: cpu_name(),
            cpu_level: model.runs_on(),
            threads,
            depth: plan.depth,
            tests,
            bandwidth_bytes_per_second: bandwidth,
        })
    }

    /// Prints a table, and below it what the figures were measured on.
    pub fn print_markdown(&self) -> Result<()> {
        let mut table = Table::new(&[
            ("model", Align::Left),
            ("size", Align::Right),
            ("threads", Align::Right),
            ("test", Align::Left),
            ("tokens/s", Align::Right),
            ("median", Align::Right),
            ("read/token", Align::Right),
            ("read/s", Align::Right),
            ("of bandwidth", Align::Right),
        ]);
        for test in &self.tests {
            let speed = &test.tokens_per_second;
            let size = |bytes: f64| ui::size(bytes as u64);
            table.row([
                self.model.clone(),
                ui::size(self.artifact_bytes),
                self.threads.to_string(),
                test.test.clone(),
                format!("{} ± {:.2}", ui::digits(speed.mean), speed.sd),
                ui::digits(speed.median),
                test.bytes_per_token.map(size).unwrap_or_default(),
                test.bytes_per_second.map(size).unwrap_or_default(),
                test.bandwidth_share.map(percent).unwrap_or_default(),
            ]);
        }
        ui::print(&format!("{table}\n{}\n", self.circumstances()))
    }

    /// What the figures depend on, as a sentence.
    fn circumstances(&self) -> String {
        let bandwidth = &self.bandwidth_bytes_per_second;
        let size = |bytes: f64| ui::size(bytes as u64);
        let (least, most) = bandwidth.range();
        format!(
            "Read bandwidth {}/s (median of {}, {}/s to {}/s); {} activations, code for {}{}.",
            size(bandwidth.median),
            bandwidth.runs.len(),
            size(least),
            size(most),
            self.activations,
            self.cpu_level,
            self.cpu
                .as_ref()
                .map(|cpu| format!(", {cpu}"))
                .unwrap_or_default(),
        )
    }

    /// Prints one JSON object.
    pub fn print_json(&self) -> Result<()> {
        ui::print_json(self)
    }

    /// Prints one line a test.
    pub fn print_csv(&self) -> Result<()> {
        let mut out = String::from(
            "model,artifact_bytes,threads,depth,test,tokens,mean_tokens_per_second,\
             sd_tokens_per_second,median_tokens_per_second,bytes_per_token,bytes_per_second,\
             bandwidth_bytes_per_second,bandwidth_share\n",
        );
        for test in &self.tests {
            let speed = &test.tokens_per_second;
            let number = |value: Option<f64>| value.map(|v| v.to_string()).unwrap_or_default();
            let fields = [
                quote(&self.model),
                self.artifact_bytes.to_string(),
                self.threads.to_string(),
                self.depth.to_string(),
                quote(&test.test),
                test.tokens.to_string(),
                speed.mean.to_string(),
                speed.sd.to_string(),
                speed.median.to_string(),
                number(test.bytes_per_token),
                number(test.bytes_per_second),
                self.bandwidth_bytes_per_second.median.to_string(),
                number(test.bandwidth_share),
            ];
            out.push_str(&(fields.join(",") + "\n"));
        }
        ui::print(&out)
    }
}

/// A test's name, such as `generate 128 @ 4096`.
fn title(what: &str, tokens: usize, depth: usize) -> String {
    match depth {
        0 => format!("{what} {tokens}"),
        depth => format!("{what} {tokens} @ {depth}"),
    }
}

/// Statistics of measurements that are never none.
fn stats(runs: &[f64]) -> Stats {
    Stats::of(runs).unwrap_or(Stats {
        mean: f64::NAN,
        sd: f64::NAN,
        median: f64::NAN,
        runs: Vec::new(),
    })
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

/// A CSV field, in quotes where it needs them.
fn quote(field: &str) -> String {
    match field.contains([',', '"', '\n']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.to_owned(),
    }
}

/// The processor's name, where the system tells.
fn cpu_name() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_fields_are_quoted_where_needed() {
        assert_eq!(quote("a.rbx"), "a.rbx");
        assert_eq!(quote("a,\"b\""), "\"a,\"\"b\"\"\"");
    }

    #[test]
    fn tests_are_named_by_tokens_and_depth() {
        assert_eq!(title("prompt", 512, 0), "prompt 512");
        assert_eq!(title("generate", 128, 4096), "generate 128 @ 4096");
    }
}
