//! What a residual-binary product of several tokens by groups of warps is expected to take.
//!
//! After the kernel ahead has ended, a block reads its inputs, makes planes, counts and exchanges
//! sums, one after the other. So a launch takes
//!
//! ```text
//! START + planes + max(count, signs) + exchange
//! ```
//!
//! where planes are the busiest scheduler's units; counting is the matrix instructions of all groups, which
//! share the units, and what the busiest group waits beside; and signs are those that a block had no room
//! for before, at the rate that what it has under way allows. The constants follow times of many ways to
//! cut the products of a 7 B model on an H200: they rank the ways to cut a product.

use rabitc_rbx::SmArch;

use super::cost::{Card, SCHEDULERS};
use super::group_tile::candidates;
use super::product::{Cut, Task};
use super::several_tokens::task;
use crate::cuda::kernels::rb_tokens_wgmma::RbTokensWgmma;

/// Cycles of every launch, x included.
const START: f64 = 2.6e3;
/// Cycles that a scheduler needs for 256 inputs of four tokens and a set.
const UNIT: f64 = 400.0;
/// Cycles of the matrix units for 64 rows × 256 inputs × 8 columns, and what else keeps them waiting.
const MATRIX: f64 = 5.0;
/// Cycles of a group for a four of row tiles and each chain, waiting and weighing.
const CHAIN: f64 = 200.0;
/// Cycles for sums to be added up and sent.
const EXCHANGE: f64 = 900.0;
/// Cycles that a read from memory takes under load.
const LATENCY: f64 = 1.5e3;
/// Cycles that tell ways apart that take as long: for all shared memory, since the next kernel's blocks find
/// room in what is left.
const SHARED: f64 = 200.0;

impl Cut for RbTokensWgmma {
    const KIND: &'static str = "several tokens";

    fn problem(&self) -> String {
        self.problem_name()
    }

    fn candidates(&self, arch: SmArch) -> Vec<RbTokensWgmma> {
        candidates(self, arch)
    }

    fn seconds(&self, arch: SmArch) -> f64 {
        let card = Card::of(arch);
        let share = card.bandwidth / card.clock / card.multiprocessors as f64;
        let slots = self.warps() * self.tile.slots;
        let under_way = slots.min(self.tile.row_tiles) * self.tile_bytes();
        let rest = (self.tile.row_tiles * self.tile_bytes()).saturating_sub(under_way);
        let signs = rest as f64 / share.min(under_way as f64 / LATENCY);
        let own = START + self.quantising() + self.counting().max(signs);
        let each = self.grid().div_ceil(card.multiprocessors) as f64;
        let shared = SHARED * self.shared_bytes() as f64 / card.shared as f64;
        (own * each + EXCHANGE + shared) / card.clock
    }

    fn grid(&self) -> [usize; 2] {
        [RbTokensWgmma::grid(self), 1]
    }

    fn task(&self) -> Task {
        task(&self.of)
    }
}

impl RbTokensWgmma {
    /// Cycles until all planes are made.
    fn quantising(&self) -> f64 {
        let units = (self.most_chunks() * self.of.sets() * self.of.tokens).div_ceil(4);
        units.div_ceil(SCHEDULERS) as f64 * UNIT * self.of.planes as f64 / 16.0
    }

    /// Cycles until all bits are counted.
    fn counting(&self) -> f64 {
        let (of, paths) = (&self.of, self.of.layout.stored.paths);
        let columns = of.steps() * of.tokens / of.columns();
        let matrix = self.tile_sets() * self.most_chunks() * paths * columns;
        let chains = (columns / self.eight() * paths).div_ceil(self.chains());
        let waits = (self.rounds() * chains) as f64 * CHAIN;
        waits + matrix as f64 * MATRIX
    }
}

#[cfg(test)]
#[path = "group_cut_tests.rs"]
mod tests;
