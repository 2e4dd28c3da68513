//! The command line: one variant a verb.

use clap::{Parser, Subcommand};

use crate::verbs;

/// A compiler for language models whose linear layers are residual-binary.
///
/// A residual-binary layer computes y = Σ_i g_i ⊙ (B_i (h_i ⊙ x)) with matrices B_i of signs at one
/// bit a weight. `rabitc compile` turns a checkpoint into one file with packed weights and native
/// code; the other verbs run, measure and examine it.
///
/// A first session:
///
///   rabitc compile models/books-1m -o books.rbx
///   rabitc run books.rbx -p "It was a dark and stormy night"
///   rabitc eval books.rbx --text book.txt
#[derive(Parser)]
#[command(version, verbatim_doc_comment, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Subcommand)]
pub enum Verb {
    Compile(verbs::compile::Args),
    Run(verbs::run::Args),
    Eval(verbs::eval::Args),
    Logits(verbs::logits::Args),
    Inspect(verbs::inspect::Args),
    Verify(verbs::verify::Args),
    Bench(verbs::bench::Args),
    Tune(verbs::tune::Args),
    Train(verbs::train::Args),
    Report(verbs::report::Args),
    Export(verbs::export::Args),
    Synth(verbs::synth::Args),
    Doctor(verbs::doctor::Args),
}

impl Verb {
    /// Carries the verb out.
    pub fn run(self) -> anyhow::Result<()> {
        match self {
            Verb::Compile(args) => verbs::compile::run(&args),
            Verb::Run(args) => verbs::run::run(&args),
            Verb::Eval(args) => verbs::eval::run(&args),
            Verb::Logits(args) => verbs::logits::run(&args),
            Verb::Inspect(args) => verbs::inspect::run(&args),
            Verb::Verify(args) => verbs::verify::run(&args),
            Verb::Bench(args) => verbs::bench::run(&args),
            Verb::Tune(args) => verbs::tune::run(&args),
            Verb::Train(args) => verbs::train::run(&args),
            Verb::Report(args) => verbs::report::run(&args),
            Verb::Export(args) => verbs::export::run(&args),
            Verb::Synth(args) => verbs::synth::run(&args),
            Verb::Doctor(args) => verbs::doctor::run(&args),
        }
    }
}
