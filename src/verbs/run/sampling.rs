//! The options that say how tokens are chosen.

use std::hash::{BuildHasher, Hasher, RandomState};

use rabitc_runtime::sampler::SamplerOptions;

/// How tokens are chosen. Ranges are checked by [`SamplerOptions::validate`].
#[derive(clap::Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingArgs {
    /// Take the most probable token always
    #[arg(long, conflicts_with_all = ["temperature", "top_k", "top_p", "min_p", "seed"])]
    greedy: bool,
    /// Divides the logits: lower is more predictable; 0 is --greedy
    #[arg(
        long,
        value_name = "T",
        default_value_t = 0.8,
        allow_negative_numbers = true
    )]
    temperature: f32,
    /// Keep the K most probable tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: usize,
    /// Keep the fewest most probable tokens that reach probability P together; 1 keeps all
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.95,
        allow_negative_numbers = true
    )]
    top_p: f32,
    /// Keep tokens at least P times as probable as the most probable one; 0 keeps all
    #[arg(
        long,
        value_name = "P",
        default_value_t = 0.0,
        allow_negative_numbers = true
    )]
    min_p: f32,
    /// Makes tokens that occurred before less probable; 1 changes nothing
    #[arg(
        long,
        value_name = "R",
        default_value_t = 1.0,
        allow_negative_numbers = true
    )]
    repetition_penalty: f32,
    /// Where the random numbers start: the same seed gives the same text [default: a new one]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

impl SamplingArgs {
    /// The runtime's options.
    pub fn options(&self) -> SamplerOptions {
        let greedy = SamplerOptions {
            repetition_penalty: self.repetition_penalty,
            ..SamplerOptions::default()
        };
        if self.greedy {
            return greedy;
        }
        SamplerOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            seed: self.seed.unwrap_or_else(fresh_seed),
            ..greedy
        }
    }
}

/// A seed that differs from run to run, short enough to be typed. The standard library keys its
/// hash maps with random numbers of the system, which saves a dependency here.
fn fresh_seed() -> u64 {
    RandomState::new().build_hasher().finish() % 1_000_000_000
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        sampling: SamplingArgs,
    }

    fn parse(line: &str) -> Result<SamplerOptions, clap::Error> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.sampling.options())
    }

    #[test]
    fn defaults_sample_and_greedy_does_not() {
        let options = parse("--seed 7").unwrap();
        assert_eq!(
            (options.temperature, options.top_p, options.seed),
            (0.8, 0.95, 7)
        );
        let greedy = parse("--greedy --repetition-penalty 1.3").unwrap();
        assert_eq!(greedy.temperature, 0.0);
        assert_eq!(greedy.repetition_penalty, 1.3);
        assert!(parse("--greedy --top-k 5").is_err());
    }

    #[test]
    fn seeds_differ_unless_given() {
        let seeds: Vec<_> = (0..4).map(|_| parse("").unwrap().seed).collect();
        assert!(seeds.iter().any(|s| *s != seeds[0]), "{seeds:?}");
    }
}
