//! Where the time of a generated token goes.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rabitc_rbx::{Manifest, Step, Work};
use rabitc_runtime::Session;
use rabitc_runtime::step_clock::StepClock;
use serde::Serialize;

use super::measure::Plan;
use crate::ui::{self, Align, Table};
use crate::verbs::inspect::group::pattern;

/// Where the time of generated tokens went, as `--steps --output json` prints it. The field names are
/// an interface.
#[derive(Debug, Serialize)]
pub struct Steps {
    tokens: usize,
    /// Of all tokens.
    seconds: f64,
    parts: Vec<Part>,
}

/// Steps of one kind, added up.
#[derive(Debug, Serialize)]
struct Part {
    what: String,
    /// In a token; 0 for what is no launch.
    launches: usize,
    /// Of all tokens.
    seconds: f64,
}

/// Generates the tokens of `plan` and sees where their time goes.
pub fn measure(session: &mut Session, plan: &Plan) -> Result<Steps> {
    let model = session.model().clone();
    let manifest = model.manifest();
    let most = manifest.programs.iter().map(|p| p.steps.len()).max();
    let clock = StepClock::new(most.unwrap_or(0));
    if plan.depth > 0 {
        let ids: Vec<u32> = vec![0; plan.depth];
        session.read(&ids, &mut |_| {})?;
    }
    session.step(&[0], &[0])?;
    session.rewind(plan.depth);
    let (start, mut program) = (Instant::now(), 0);
    for _ in 0..plan.generate {
        let timed = session.time(&[0], &[0], &clock);
        program = timed.context("the model does not run on the processor")??;
    }
    let total = start.elapsed();
    let times = clock.steps();
    let steps = &manifest.programs[program].steps;
    let mut parts = parts(manifest, steps, &times);
    let busy: Duration = times.iter().sum();
    for (what, time) in [
        ("waiting for other threads", clock.waiting()),
        (
            "between steps",
            total.saturating_sub(busy + clock.waiting()),
        ),
    ] {
        parts.push(Part {
            what: what.into(),
            launches: 0,
            seconds: time.as_secs_f64(),
        });
    }
    parts.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    Ok(Steps {
        tokens: plan.generate,
        seconds: total.as_secs_f64(),
        parts,
    })
}

/// The steps by kind: the kernel's family and the node without its number.
fn parts(manifest: &Manifest, steps: &[Step], times: &[Duration]) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (step, time) in steps.iter().zip(times) {
        let family = match &step.work {
            Work::Kernel { kernel, .. } => family(&manifest.kernels[*kernel].name),
            Work::Host(_) => "rope_table".into(),
        };
        let what = format!("{family}  {}", pattern(&step.node));
        match parts.iter_mut().find(|p| p.what == what) {
            Some(part) => {
                part.launches += 1;
                part.seconds += time.as_secs_f64();
            }
            None => parts.push(Part {
                what,
                launches: 1,
                seconds: time.as_secs_f64(),
            }),
        }
    }
    parts
}

/// The words of a kernel's name before its configuration.
fn family(kernel: &str) -> String {
    const FORMS: [&str; 6] = ["int8", "int16", "f32", "f16", "bf16", "i8"];
    let configures = |w: &&str| !FORMS.contains(w) && !w.contains(|c: char| c.is_ascii_digit());
    let words: Vec<_> = kernel.split('_').take_while(configures).collect();
    words.join("_")
}

/// The steps as a Markdown table.
pub fn render(steps: &Steps) -> String {
    let mut table = Table::new(&[
        ("step", Align::Left),
        ("launches", Align::Right),
        ("µs a token", Align::Right),
        ("share", Align::Right),
    ]);
    let tokens = steps.tokens.max(1) as f64;
    for part in &steps.parts {
        table.row([
            part.what.clone(),
            match part.launches {
                0 => String::new(),
                n => n.to_string(),
            },
            ui::digits(part.seconds * 1e6 / tokens),
            format!("{:.1}%", 100.0 * part.seconds / steps.seconds),
        ]);
    }
    format!(
        "{table}\nOf {} ms a token, as the first thread spends them.\n",
        ui::digits(steps.seconds * 1e3 / tokens)
    )
}

#[cfg(test)]
mod tests {
    use super::family;

    #[test]
    fn families_are_the_words_before_the_configuration() {
        for (kernel, words) in [
            ("rb_product_int16_f16_128x128_p2_r1_t1", "rb_product"),
            ("attention_h4_kv2_d10_q40", "attention"),
            ("rms_norm_bf16_d128", "rms_norm"),
            ("gate_silu_d515", "gate_silu"),
            ("add", "add"),
        ] {
            assert_eq!(family(kernel), words);
        }
    }
}
