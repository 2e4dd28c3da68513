//! The time of every part of a step on a GPU.

use anyhow::Result;
use rabitc_runtime::Session;
use rabitc_runtime::cuda::profile::{Part, Profile};

use crate::ui::{self, Align, Table};

/// Measures the parts of a step for `tokens` tokens after `depth` positions and gives a table of
/// them; `None` on the processor.
pub fn table(session: &mut Session, depth: usize, tokens: usize) -> Result<Option<String>> {
    if !session.is_on_gpu() {
        return Ok(None);
    }
    if depth > 0 {
        session.read(&vec![0; depth], &mut |_| {})?;
    }
    let profile = session.profile(tokens).transpose()?;
    Ok(profile.map(|profile| render(&profile)))
}

fn render(profile: &Profile) -> String {
    let mut table = Table::new(&[
        ("part", Align::Left),
        ("launches", Align::Right),
        ("µs", Align::Right),
        ("µs a launch", Align::Right),
        ("weights", Align::Right),
        ("of read bandwidth", Align::Right),
    ]);
    for part in &profile.parts {
        table.row([
            part.name.clone(),
            part.launches.to_string(),
            format!("{:.1}", part.microseconds),
            format!("{:.2}", part.microseconds / part.launches.max(1) as f64),
            ui::size(part.bytes),
            share(part, profile.read_bandwidth),
        ]);
    }
    format!(
        "{table}\nRead bandwidth {}/s.\n",
        ui::size(profile.read_bandwidth as u64)
    )
}

fn share(part: &Part, bandwidth: f64) -> String {
    let floor = part.bytes as f64 / bandwidth * 1e6;
    format!("{:.0}%", 100.0 * floor / part.microseconds.max(1e-9))
}
