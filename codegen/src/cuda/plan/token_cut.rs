//! What a residual-binary product of several tokens is expected to take without clusters.
//!
//! A block loads all inputs, quantises them, counts and adds up, one after the other. So a launch takes
//!
//! ```text
//! START + max(quantise + count, signs) + sums
//! ```
//!
//! Quantisation is the busiest scheduler's units and the busiest warp's; counting is the busiest
//! scheduler's matrix instructions, what feeds them and weighs their counts; signs are the block's bytes
//! at its share of the bandwidth. The constants rank the ways to cut a product.

use rabitc_rbx::SmArch;

use super::cost::{Card, SCHEDULERS};
use super::product::{Cut, Task};
use super::several_tokens::task;
use super::token_tile::{busiest, candidates};
use crate::cuda::kernels::rb_tokens::RbTokens;
use crate::cuda::layout::TILE_BYTES;

/// Cycles of every launch.
const START: f64 = 5.7e3;
/// Cycles that a scheduler needs for 256 inputs of four tokens and a set.
const UNIT: f64 = 740.0;
/// Cycles for each such unit of the busiest warp.
const UNIT_ALONE: f64 = 125.0;
/// Cycles of a scheduler for a matrix instruction of 16 × 8 × 256.
const MATRIX: f64 = 6.8;
/// Cycles to weigh what an instruction counted.
const WEIGH: f64 = 5.3;
/// Cycles to read a plane of 256 inputs of eight tokens.
const READ: f64 = 2.4;
/// Cycles for each share of the inputs: sums are added up and sent for each.
const PART: f64 = 440.0;
/// Cycles of a scheduler for a set of row tiles, a path and eight tokens beside.
const SET: f64 = 126.0;

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
        let layout = &self.of.layout;
        let bytes = self.tile.row_tiles * layout.input_tiles() * layout.stored.paths * TILE_BYTES;
        let each = self.grid().div_ceil(card.multiprocessors) as f64;
        let own = (START + work).max(bytes as f64 / share) * each;
        (own + self.tile.parts as f64 * PART) / card.clock
    }

    fn grid(&self) -> [usize; 2] {
        [RbTokens::grid(self), 1]
    }

    fn task(&self) -> Task {
        task(&self.of)
    }
}

impl RbTokens {
    /// Cycles until all planes are made.
    fn quantising(&self) -> f64 {
        let of = &self.of;
        let units = (of.layout.input_tiles() * of.sets() * of.tokens).div_ceil(4);
        let bits = of.planes as f64 / 16.0;
        let share = units as f64 / SCHEDULERS as f64 * UNIT * bits;
        share + units.div_ceil(self.tile.warps) as f64 * UNIT_ALONE
    }

    /// Cycles until all bits are counted.
    fn counting(&self) -> f64 {
        let (tile, of) = (&self.tile, &self.of);
        let (groups, paths) = (of.tokens / of.columns(), of.layout.stored.paths);
        let items = self.tile_sets() * tile.parts;
        let instructions = busiest(self) * paths * of.steps() * groups;
        let chunks = self.part_chunks();
        let together = chunks as f64 / chunks.div_ceil(self.chunks_at_once()) as f64;
        let each = MATRIX + WEIGH / together + READ / tile.at_once as f64;
        let sets = items.div_ceil(SCHEDULERS) * paths * groups;
        instructions as f64 * each + sets as f64 * SET
    }
}

#[cfg(test)]
#[path = "token_cut_tests.rs"]
mod tests;
