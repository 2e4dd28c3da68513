//! What a residual-binary product of several tokens by groups of warps is expected to take.
//!
//! After the kernel ahead has ended, a block reads its inputs, makes planes, counts and exchanges
//! sums, one after the other; its signs arrive meanwhile. So a launch takes
//!
//! ```text
//! START + max(planes + count, signs) + exchange
//! ```
//!
//! The constants follow times of many ways to cut the products of a 7 B model on an H200: they rank
//! the ways to cut a product.

use rabitc_rbx::SmArch;

use super::cost::{Card, SCHEDULERS};
use super::group_tile::candidates;
use super::product::{Cut, Rounding, Task};
use crate::cuda::kernels::rb_tokens_wgmma::RbTokensWgmma;

/// Cycles of every launch.
const START: f64 = 3.0e3;
/// Cycles that a scheduler needs for 256 inputs of four tokens and a set.
const UNIT: f64 = 600.0;
/// Cycles for each such unit of the busiest warp.
const UNIT_ALONE: f64 = 125.0;
/// Cycles of a scheduler for 16 rows × 256 inputs × 8 columns.
const MATRIX: f64 = 4.5;
/// Cycles of a group for a path of a four of row tiles beside.
const SET: f64 = 250.0;
/// Cycles for sums to be added up and sent.
const EXCHANGE: f64 = 900.0;
/// Cycles that a chain loses with a kernel that leaves no room for the next one's blocks.
const CROWDED: f64 = 1200.0;

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
        let bytes = self.tile.row_tiles * self.most_chunks() * self.layout.stored.paths * 512;
        let work = START + self.quantising() + self.counting();
        let each = self.grid().div_ceil(card.multiprocessors) as f64;
        let crowded = match self.shared_bytes() > card.shared / 2 {
            true => CROWDED,
            false => 0.0,
        };
        let own = work.max(bytes as f64 / share) * each;
        (own + EXCHANGE + crowded) / card.clock
    }

    fn grid(&self) -> [usize; 2] {
        [RbTokensWgmma::grid(self), 1]
    }

    fn task(&self) -> Task {
        Task {
            layout: self.layout.clone(),
            tokens: self.tokens,
            rounding: Rounding::Planes(self.planes),
            x_stride: self.x_stride,
            norm: self.norm,
            gate: self.finish.gate(),
            residual: self.finish.residual(),
            columns: self.width(),
        }
    }
}

impl RbTokensWgmma {
    /// Cycles until all planes are made.
    fn quantising(&self) -> f64 {
        let units = (self.most_chunks() * self.sets() * self.tokens).div_ceil(4);
        let bits = self.planes as f64 / 16.0;
        let share = units as f64 / SCHEDULERS as f64 * UNIT * bits;
        share + units.div_ceil(self.warps()) as f64 * UNIT_ALONE
    }

    /// Cycles until all bits are counted.
    fn counting(&self) -> f64 {
        let paths = self.layout.stored.paths;
        let columns = self.steps() * self.tokens / self.columns();
        let items = self.rounds() * self.tile.groups;
        let instructions = items * self.most_chunks() * paths * columns;
        instructions as f64 * MATRIX + (self.rounds() * paths) as f64 * SET
    }
}

/// The product cut in the way that is expected to be fastest; `None` if not even two tokens fit.
pub fn choose(product: &RbTokensWgmma, arch: SmArch) -> Option<RbTokensWgmma> {
    let cuts = candidates(product, arch).into_iter();
    let timed = cuts.map(|cut| (cut.seconds(arch), cut));
    let best = timed.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map(|(_, cut)| cut)
}
