//! The choice of row tiles: how many tiles of a layer's signs stand under each other as one block.
//!
//! More tiles mean more rows for every table that is read, up to the registers that hold their
//! sums; fewer mean more blocks to share out among threads. What was measured on a machine decides;
//! without that, a heuristic from the vectors does.

use std::collections::BTreeMap;

use rabitc_ir::layout::TILE_ROWS;
use rabitc_ir::ops::residual_binary::Activations;

/// Row blocks that a layer should have at least, so that threads end at nearly the same time.
const MIN_BLOCKS: usize = 32;

/// The processor that tiles are chosen for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Machine {
    /// Whether bytes are permuted over a whole vector of 64: one vector of sums a tile and byte.
    pub permute: bool,
}

/// What tiles are chosen by, of one layer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LayerShape {
    /// Inputs.
    pub d_in: usize,
    /// Outputs of each segment.
    pub segments: Vec<usize>,
    /// Binary paths.
    pub paths: usize,
    /// Format of the product's input, by its word.
    pub activations: &'static str,
}

/// How row tiles are chosen.
#[derive(Clone, Debug, Default)]
pub struct Tiles {
    /// The processor.
    pub machine: Machine,
    /// Choices that were measured.
    pub tuned: BTreeMap<LayerShape, usize>,
}

impl Tiles {
    /// Row tiles of a layer, from 1 to [`rabitc_ir::layout::MAX_ROW_TILES`].
    pub fn row_tiles(&self, shape: &LayerShape, activations: Activations) -> usize {
        if let Some(tiles) = self.tuned.get(shape) {
            return *tiles;
        }
        let rows: usize = shape.segments.iter().sum();
        let most = self.machine.most(activations);
        let choices = [8, 4, 2].into_iter().filter(|t| *t <= most);
        choices
            .into_iter()
            .find(|t| rows / (t * TILE_ROWS) >= MIN_BLOCKS)
            .unwrap_or(1)
    }
}

impl Machine {
    /// Row tiles whose sums registers hold. Where whole vectors are permuted, sums are few; then
    /// the tables count, which take four times as long to read again in f32 as in int8. The sizes
    /// of the caches do not tell good choices from bad ones.
    fn most(&self, activations: Activations) -> usize {
        match (self.permute, activations) {
            (true, Activations::F32) => 8,
            (true, _) => 4,
            (false, Activations::Int8 | Activations::Unset) => 4,
            (false, Activations::Int16 | Activations::F32) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(segments: &[usize]) -> LayerShape {
        LayerShape {
            d_in: 4096,
            segments: segments.to_vec(),
            paths: 2,
            activations: "int8",
        }
    }

    #[test]
    fn small_layers_are_cut_into_enough_blocks() {
        let tiles = Tiles::default();
        let of = |rows| tiles.row_tiles(&shape(&[rows]), Activations::Int8);
        assert_eq!(
            [of(16), of(512), of(1024), of(2048), of(65536)],
            [1, 1, 2, 4, 4]
        );
    }

    #[test]
    fn vectors_bound_the_choice() {
        let mut tiles = Tiles::default();
        let of = |tiles: &Tiles, a| tiles.row_tiles(&shape(&[65536]), a);
        assert_eq!(of(&tiles, Activations::F32), 2);
        tiles.machine.permute = true;
        assert_eq!(of(&tiles, Activations::F32), 8);
        assert_eq!(of(&tiles, Activations::Int16), 4);
    }

    #[test]
    fn what_was_measured_wins() {
        let mut tiles = Tiles::default();
        tiles.tuned.insert(shape(&[4096]), 8);
        let of = |rows| tiles.row_tiles(&shape(&[rows]), Activations::Int8);
        assert_eq!([of(4096), of(4097)], [8, 4]);
    }
}
