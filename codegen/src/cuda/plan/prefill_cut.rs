//! The ways to cut the products of many tokens that are tried, and what each is expected to take.
//!
//! Making weights takes most of the time of a tile, whatever its tokens, and blocks of a card take
//! tile after tile. So what counts is how many rounds that takes; wide tiles make weights for more
//! tokens at once and may leave blocks without work in the last round.

use rabitc_rbx::SmArch;

use super::cost::Card;
use super::product::{Cut, Rounding, Task};
use crate::cuda::kernels::finish::Finish;
use crate::cuda::kernels::rb_prefill::{self, RbPrefill};
use crate::cuda::kernels::rb_prefill_wgmma::RbPrefillWgmma;
use crate::cuda::kernels::rb_prepare::Order;
use crate::cuda::layout::GpuLayout;

/// Cycles in which a block of [`RbPrefillWgmma`] takes 256 inputs of a tile of 256 tokens.
const CHUNK: f64 = 5.5e3;
/// Time of a tile of 128 tokens, of that of one of 256: weights are made for fewer tokens.
const NARROW: f64 = 0.62;
/// Share of the time of a tile that a stage less costs, since fetches have less of a lead.
const SHORT_RING: f64 = 0.002;
/// Stages beyond which more give nothing.
const LONG_RING: usize = 6;
/// Cycles in which a block of [`RbPrefill`] makes and multiplies 256 inputs of a row tile a warp.
const ROW_TILE: f64 = 5e3;
/// What it costs beside, in row tiles: activations are read for all of them.
const ACTIVATIONS: f64 = 0.5;

/// The part of a task that both kernels have alike.
fn task(layout: &GpuLayout, tokens: usize, finish: Finish, columns: usize) -> Task {
    Task {
        layout: layout.clone(),
        tokens,
        rounding: Rounding::Half,
        x_stride: layout.stored.d_in,
        norm: None,
        gate: finish.gate(),
        residual: finish.residual(),
        columns,
    }
}

impl Cut for RbPrefillWgmma {
    const KIND: &'static str = "many tokens";

    fn problem(&self) -> String {
        format!("{}_m{}", self.base_name(), self.most)
    }

    fn candidates(&self, arch: SmArch) -> Vec<RbPrefillWgmma> {
        let with = |tile| RbPrefillWgmma {
            tile,
            ..self.clone()
        };
        self.tiles(arch).into_iter().map(with).collect()
    }

    fn seconds(&self, arch: SmArch) -> f64 {
        let card = Card::of(arch);
        let width = if self.tile.tokens == 128 { NARROW } else { 1.0 };
        let short = LONG_RING.saturating_sub(self.tile.stages) as f64 * SHORT_RING;
        let tile = self.layout.input_tiles() as f64 * CHUNK * width * (1.0 + short);
        self.rounds() as f64 * tile / card.clock
    }

    fn grid(&self) -> [usize; 2] {
        [RbPrefillWgmma::grid(self), 1]
    }

    fn task(&self) -> Task {
        task(&self.layout, self.most, self.finish, self.columns())
    }

    fn input(&self) -> Option<Order> {
        Some(Order::Units(self.tile.tokens))
    }
}

impl Cut for RbPrefill {
    const KIND: &'static str = "many tokens";

    fn problem(&self) -> String {
        format!("{}_m{}", self.base_name(), self.most)
    }

    fn candidates(&self, _: SmArch) -> Vec<RbPrefill> {
        let with = |warp_tiles: &usize| RbPrefill {
            warp_tiles: *warp_tiles,
            ..self.clone()
        };
        self.choices().iter().map(with).collect()
    }

    fn seconds(&self, arch: SmArch) -> f64 {
        let card = Card::of(arch);
        let blocks: usize = Cut::grid(self).iter().product();
        let rounds = blocks.div_ceil(card.multiprocessors) as f64;
        let tile = self.layout.input_tiles() as f64 * ROW_TILE;
        rounds * tile * (self.warp_tiles as f64 + ACTIVATIONS) / card.clock
    }

    fn grid(&self) -> [usize; 2] {
        [
            self.most.div_ceil(rb_prefill::TOKENS),
            RbPrefill::grid(self),
        ]
    }

    fn task(&self) -> Task {
        let finish = self.residual.map_or(Finish::Store, Finish::Residual);
        let columns = self.layout.stored.segments.iter().sum();
        task(&self.layout, self.most, finish, columns)
    }

    fn input(&self) -> Option<Order> {
        Some(Order::Tokens)
    }
}

#[cfg(test)]
mod tests {
    use rabitc_ir::layout::SignLayout;

    use super::super::product::{choose, unmeasured};
    use super::*;
    use crate::cuda::kernels::rb_prefill_wgmma::PrefillTile;

    fn layout(rows: usize, paths: usize) -> GpuLayout {
        let stored = SignLayout {
            d_in: 512,
            paths,
            segments: vec![rows],
            row_tiles: 4,
        };
        GpuLayout {
            stored,
            paired: false,
        }
    }

    fn wide(rows: usize, most: usize) -> RbPrefillWgmma {
        RbPrefillWgmma {
            layout: layout(rows, 2),
            finish: Finish::Store,
            most,
            by_rows: false,
            tile: PrefillTile {
                tokens: 128,
                stages: 2,
            },
        }
    }

    #[test]
    fn tiles_are_narrow_where_wide_ones_would_leave_blocks_without_work() {
        let arch: SmArch = "sm_90".parse().unwrap();
        let tile = |rows, most| {
            let chosen = choose(&wide(rows, most), arch, "prompt", &unmeasured);
            let (product, all) = chosen.unwrap();
            assert!(all.candidates.len() > 4);
            assert_eq!(product.tile.stages, 6);
            product.tile.tokens
        };
        assert_eq!([tile(4096, 2048), tile(4096, 512)], [256, 128]);
        assert_eq!([tile(12288, 2048), tile(96, 2048)], [256, 128]);
    }

    #[test]
    fn products_of_other_lengths_are_other_problems_and_the_same_kernel() {
        let [short, long] = [512, 2048].map(|most| wide(4096, most));
        assert_ne!(short.problem(), long.problem());
        use crate::cuda::CudaSpec;
        assert_eq!(short.name(), long.name());
    }

    #[test]
    fn warps_take_as_many_row_tiles_as_registers_hold() {
        let arch: SmArch = "sm_80".parse().unwrap();
        for (paths, expected) in [(2, 4), (3, 2), (5, 1)] {
            let wanted = RbPrefill {
                layout: layout(12288, paths),
                residual: None,
                most: 2048,
                by_rows: false,
                warp_tiles: 1,
            };
            let (product, _) = choose(&wanted, arch, "prompt", &unmeasured).unwrap();
            assert_eq!(product.warp_tiles, expected);
        }
    }
}
