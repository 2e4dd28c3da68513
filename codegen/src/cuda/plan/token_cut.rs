//! What a residual-binary product of several tokens is expected to take.
//!
//! After the kernel ahead has ended, a block reads its inputs, quantises them, counts and exchanges
//! sums, one after the other; its signs arrive meanwhile. So a launch takes
//!
//! ```text
//! START + max(quantise + count, signs) + exchange
//! ```
//!
//! Quantisation is the busiest scheduler's units; counting its matrix instructions, or what one
//! warp's take one after the other if it has too few neighbours; signs are the block's bytes at its
//! share of the bandwidth.

use rabitc_rbx::SmArch;

use super::cost::Card;
use super::product::{Cut, Rounding, Task};
use super::token_tile::{SCHEDULERS, busiest, candidates};
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::rb_tokens::RbTokens;

/// Cycles from the end of the kernel ahead until inputs are in registers.
const START: f64 = 2.2e3;
/// Cycles that a scheduler needs for 256 inputs of four tokens and a set.
const UNIT: f64 = 330.0;
/// Cycles in which a warp alone does the same.
const UNIT_ALONE: f64 = 800.0;
/// Cycles that a matrix unit is busy with an instruction of 16 × 8 × 256.
const MATRIX: f64 = 6.5;
/// Cycles from an instruction's start until what depends on it can start.
const MATRIX_LATENCY: f64 = 34.0;
/// Cycles of a warp alone to weigh the counts of two steps.
const WEIGH: f64 = 30.0;
/// Cycles of a warp alone for a path of a set beside.
const SET: f64 = 250.0;
/// Cycles for the meeting of a cluster, and for each doubling of its size.
const MEETING: f64 = 1.2e3;
const DOUBLING: f64 = 150.0;
/// Cycles for each result that a thread finishes.
const ITEM: f64 = 150.0;

impl Cut for RbTokens {
    const KIND: &'static str = "several tokens";

    fn problem(&self) -> String {
        self.problem_name()
    }

    fn candidates(&self, arch: SmArch) -> Vec<RbTokens> {
        candidates(self, arch)
    }

    fn seconds(&self, arch: SmArch) -> f64 {
        let card = Card::of(arch);
        let work = self.quantising() + self.counting();
        let share = card.bandwidth / card.clock / card.multiprocessors as f64;
        let bytes = self.tile.row_tiles * self.most_chunks() * self.layout.stored.paths * 512;
        let each = self.grid().div_ceil(card.multiprocessors) as f64;
        let own = (START + work).max(bytes as f64 / share) * each;
        (own + self.exchanging()) / card.clock
    }

    fn grid(&self) -> [usize; 2] {
        [RbTokens::grid(self), 1]
    }

    fn task(&self) -> Task {
        Task {
            layout: self.layout.clone(),
            tokens: self.tokens,
            rounding: Rounding::Planes(self.planes),
            x_stride: self.x_stride,
            norm: self.norm,
            gate: match self.finish {
                Finish::Gate(act) => Some(act),
                _ => None,
            },
            residual: match self.finish {
                Finish::Residual(stride) => Some(stride),
                _ => None,
            },
            columns: self.width(),
        }
    }
}

impl RbTokens {
    /// Cycles until all planes are made.
    fn quantising(&self) -> f64 {
        let units = (self.most_chunks() * self.sets() * self.tokens).div_ceil(4);
        let share = units.div_ceil(SCHEDULERS) as f64 * UNIT * self.planes as f64 / 16.0;
        share.max(units.div_ceil(self.tile.warps) as f64 * UNIT_ALONE)
    }

    /// Cycles until all bits are counted.
    fn counting(&self) -> f64 {
        let groups = self.tokens / self.columns();
        let (paths, steps) = (self.layout.stored.paths, self.steps());
        let matrix = (busiest(self) * paths * steps * groups) as f64 * MATRIX;
        let (chunks, at_once) = (self.part_chunks(), self.chunks_at_once());
        let weighings = chunks.div_ceil(at_once) * (steps / 2) * groups;
        let chain = (chunks * steps / 2 * groups) as f64 * MATRIX_LATENCY;
        let alone = paths as f64 * (chain + weighings as f64 * WEIGH + SET);
        let rounds = (self.tile_sets() * self.tile.parts).div_ceil(self.tile.warps);
        matrix.max(alone * rounds as f64)
    }

    /// Cycles until sums have met and rows are finished.
    fn exchanging(&self) -> f64 {
        let doublings = f64::from(self.tile.splits.ilog2());
        let results = self.finished() * 16 * self.tokens / 4;
        let items = results.div_ceil(self.tile.warps * 32) as f64;
        MEETING + doublings * DOUBLING + items * ITEM
    }
}

/// The product cut in the way that is expected to be fastest; `None` if not even two tokens fit.
pub fn choose(product: &RbTokens, arch: SmArch) -> Option<RbTokens> {
    let cuts = candidates(product, arch).into_iter();
    let timed = cuts.map(|cut| (cut.seconds(arch), cut));
    let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, cut)| cut)
}

#[cfg(test)]
#[path = "token_cut_tests.rs"]
mod tests;
