//! `rabitc synth`.

/// To be written.
#[derive(clap::Args)]
pub struct Args {}

/// Carries the verb out.
pub fn run(_: &Args) -> anyhow::Result<()> {
    anyhow::bail!("not written yet")
}
