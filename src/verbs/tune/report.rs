//! What `tune` prints at the end.

use std::path::Path;

use rabitc::tune::cache::Candidate;
use rabitc::tune::host::Host;
use rabitc::tune::{BLOCK_TOKENS, Tuned, name};
use rabitc_ir::ops::residual_binary::Activations;
use serde_json::{Value, json};

use crate::ui::{Align, Table, digits};

/// What was found, and where it went.
pub struct Report<'a> {
    /// This machine and the code.
    pub host: &'a Host,
    /// The format of the activations.
    pub activations: Activations,
    /// The shapes.
    pub tuned: &'a [Tuned],
    /// The cache file.
    pub cache: &'a Path,
}

/// Beyond this share of quartiles from medians, times say little.
const NOISY: f64 = 0.1;

/// Sums over the layers of the model, in nanoseconds: of one token and of a block of them.
struct Totals {
    heuristic: [f64; 2],
    tuned: [f64; 2],
    /// Of the tuned tiles over the heuristic's, cross-checked.
    gain: f64,
    /// The larger quartile's distance from the median, as a share, weighted alike.
    noise: f64,
}

impl Report<'_> {
    /// Tables for people.
    pub fn text(&self) -> String {
        let decode = self.table("one token, µs", |c| c.decode.median_ns);
        let title = format!("{BLOCK_TOKENS} tokens, µs");
        let prompt = self.table(&title, |c| c.prompt.median_ns);
        let totals = self.totals();
        let ms = |ns: f64| format!("{} ms", digits(ns / 1e6));
        let sums = |n: usize| {
            let [heuristic, tuned] = [ms(totals.heuristic[n]), ms(totals.tuned[n])];
            format!("{heuristic} with the heuristic's tiles, {tuned} tuned")
        };
        let busy = match totals.noise > NOISY {
            true => "The machine was busy: measure again when it is not.\n",
            false => "",
        };
        format!(
            "{decode}\n{prompt}\nAll layers, one token: {}; cross-checked gain {:.3}×.\n\
             All layers, {BLOCK_TOKENS} tokens: {}.\n\
             Half of the times lie within ±{:.1}% of their median, in {} rounds or more.\n{busy}\
             {} activations, {} code for {}, {} threads, {}.\n\
             All times are in {}: `rabitc compile --tuned` uses them.\n",
            sums(0),
            totals.gain,
            sums(1),
            totals.noise * 100.0,
            self.rounds(),
            self.activations.name(),
            self.host.backend,
            self.host.level,
            self.host.threads,
            self.host.cpu,
            self.cache.display(),
        )
    }

    fn table(&self, title: &str, time: impl Fn(&Candidate) -> f64) -> String {
        let mut tiles: Vec<_> = self.candidates().map(|c| c.row_tiles).collect();
        tiles.sort_unstable();
        tiles.dedup();
        let titles: Vec<_> = tiles.iter().map(|t| format!("{t} tiles")).collect();
        let mut columns = vec![(title, Align::Left), ("layers", Align::Right)];
        columns.extend(titles.iter().map(|t| (t.as_str(), Align::Right)));
        let last = ["heuristic", "tuned", "gain", "GB/s"];
        columns.extend(last.map(|t| (t, Align::Right)));
        let mut table = Table::new(&columns);
        for t in self.tuned {
            let of = |tiles: &usize| {
                let candidate = t.candidates.iter().find(|c| c.row_tiles == *tiles);
                candidate.map_or(String::new(), |c| digits(time(c) / 1e3))
            };
            let (best, heuristic) = (&t.candidates[t.best], &t.candidates[t.heuristic]);
            let mut row = vec![name(&t.demand.shape), t.demand.layers.to_string()];
            row.extend(tiles.iter().map(of));
            row.push(heuristic.row_tiles.to_string());
            row.push(best.row_tiles.to_string());
            row.push(format!("{:.3}×", time(heuristic) / time(best)));
            let bytes = best.gigabytes_per_second * best.decode.median_ns;
            row.push(digits(bytes / time(best)));
            table.row(row);
        }
        table.to_string()
    }

    fn candidates(&self) -> impl Iterator<Item = &Candidate> {
        self.tuned.iter().flat_map(|t| &t.candidates)
    }

    fn rounds(&self) -> usize {
        let rounds = self.candidates().map(|c| c.decode.rounds);
        rounds.min().unwrap_or(0)
    }

    fn totals(&self) -> Totals {
        let mut totals = Totals {
            heuristic: [0.0; 2],
            tuned: [0.0; 2],
            gain: 0.0,
            noise: 0.0,
        };
        for t in self.tuned {
            let layers = t.demand.layers as f64;
            let (best, heuristic) = (&t.candidates[t.best], &t.candidates[t.heuristic]);
            for n in 0..2 {
                totals.heuristic[n] += heuristic.times()[n] * layers;
                totals.tuned[n] += best.times()[n] * layers;
            }
            let time = heuristic.decode.median_ns * layers;
            // So far, the time that is left.
            totals.gain += time / t.gain;
            let [low, high] = best.decode.quartiles_ns;
            let spread = (high - best.decode.median_ns).max(best.decode.median_ns - low);
            totals.noise += spread / best.decode.median_ns * time;
        }
        totals.gain = totals.heuristic[0] / totals.gain;
        totals.noise /= totals.heuristic[0];
        totals
    }

    /// The same for scripts.
    pub fn json(&self) -> Value {
        let shapes = self.tuned.iter().map(|t| {
            json!({
                "shape": t.entry(self.host).shape,
                "layers": t.demand.layers,
                "candidates": t.candidates,
                "heuristic": t.candidates[t.heuristic].row_tiles,
                "tuned": t.candidates[t.best].row_tiles,
                "gain": t.gain,
            })
        });
        let totals = self.totals();
        json!({
            "host": self.host,
            "shapes": shapes.collect::<Vec<_>>(),
            "heuristic_ns": {"decode": totals.heuristic[0], "prompt": totals.heuristic[1]},
            "tuned_ns": {"decode": totals.tuned[0], "prompt": totals.tuned[1]},
            "gain": totals.gain,
            "noise": totals.noise,
            "cache": self.cache,
        })
    }
}
