//! How many bytes a generated token reads, from the plan and the graph of an artifact.

use std::collections::BTreeSet;

use anyhow::{Context, Result, anyhow};
use rabitc_ir::{Graph, Op};
use rabitc_rbx::{Arg, Artifact, Work};
use rabitc_runtime::Session;
use rabitc_runtime::kv_cache::BLOCK;

/// What one generated token reads from memory, activations left out: they stay in the caches.
#[derive(Clone, Debug, PartialEq)]
pub struct Traffic {
    /// Bytes of weights, among them one row of the embedding.
    pub weights: u64,
    /// Of each attention: the positions it sees (0 for all), and the bytes of one.
    attentions: Vec<(usize, u64)>,
}

impl Traffic {
    /// Looks at the program that a session runs for a single token.
    pub fn of(session: &Session) -> Result<Traffic> {
        let artifact = session.model().artifact();
        let text = artifact.graph()?;
        let name = || artifact.path().display().to_string();
        let graph = rabitc_ir::text::parse(text)
            .map_err(|e| anyhow!("the graph: {e}"))
            .with_context(name)?;
        let windows = windows(&graph);
        let positions = session.context().next_multiple_of(BLOCK) * windows.len().max(1);
        let position = (session.cache_bytes() / positions) as u64;
        Ok(Traffic {
            weights: session
                .model()
                .gpu_step_bytes()
                .unwrap_or_else(|| weights(artifact)),
            attentions: windows.into_iter().map(|w| (w, position)).collect(),
        })
    }

    /// Bytes of keys and values that a token reads which sees `positions`, itself included.
    pub fn cache(&self, positions: usize) -> u64 {
        let seen = |window: usize| match window {
            0 => positions,
            window => positions.min(window),
        };
        let attentions = self.attentions.iter();
        attentions
            .map(|(window, bytes)| seen(*window) as u64 * bytes)
            .sum()
    }

    /// Mean bytes of a token, of `tokens` that are generated after `depth` positions.
    pub fn mean(&self, depth: usize, tokens: usize) -> f64 {
        let cache: u64 = (1..=tokens).map(|n| self.cache(depth + n)).sum();
        self.weights as f64 + cache as f64 / tokens.max(1) as f64
    }
}

/// The window of every attention.
fn windows(graph: &Graph) -> Vec<usize> {
    let window = |id| match graph.op(id) {
        Op::Attention(op) => Some(op.window),
        _ => None,
    };
    graph.order().into_iter().filter_map(window).collect()
}

/// Bytes of all weights that the smallest program names, each once; of an embedding, a row.
fn weights(artifact: &Artifact) -> u64 {
    let manifest = artifact.manifest();
    let rows = |node: &str| {
        let layer = manifest.layers.iter().find(|l| l.node == node)?;
        let rows = layer.segments.iter().sum::<usize>().max(1);
        (layer.form == "embedding").then(|| layer.bytes / rows as u64)
    };
    let (mut bytes, mut seen) = (0, BTreeSet::new());
    let program = manifest.programs.iter().min_by_key(|p| p.max_tokens);
    for step in program.iter().flat_map(|p| &p.steps) {
        let Work::Kernel { args, .. } = &step.work else {
            continue;
        };
        if let Some(row) = rows(&step.node) {
            bytes += row;
            continue;
        }
        let names = args.iter().filter_map(|arg| match arg {
            Arg::Weight(name) => Some(name.as_str()),
            _ => None,
        });
        let unseen = names.filter(|name| seen.insert(*name));
        bytes += unseen
            .map(|n| artifact.tensor(n).map_or(0, |(_, b)| b.len() as u64))
            .sum::<u64>();
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_bound_what_is_read() {
        let traffic = Traffic {
            weights: 1000,
            attentions: vec![(0, 10), (3, 10)],
        };
        assert_eq!(traffic.cache(2), 40);
        assert_eq!(traffic.cache(5), 80);
        // Positions 3, 4 and 5 of a full and a windowed attention.
        assert_eq!(traffic.mean(2, 3), 1000.0 + (60.0 + 70.0 + 80.0) / 3.0);
    }
}
