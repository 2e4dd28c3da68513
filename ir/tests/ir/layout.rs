//! The packed layout: a bijection onto its bytes, as its documentation orders them.

use proptest::prelude::*;
use rabitc_ir::Tensor;
use rabitc_ir::layout::{MAX_ROW_TILES, SignLayout, TILE_BYTES};

use crate::support::{Rng, layout};

fn any_layout() -> impl Strategy<Value = SignLayout> {
    let segments = proptest::collection::vec(1..100usize, 1..4);
    let row_tiles = prop_oneof![Just(1usize), Just(2), Just(3), Just(4)];
    (1..100usize, 1..5usize, segments, row_tiles)
        .prop_map(|(d_in, paths, segments, row_tiles)| layout(d_in, paths, &segments, row_tiles))
}

/// Plain signs of every segment, padding zero.
fn signs(layout: &SignLayout, rng: &mut Rng) -> Vec<Tensor> {
    let segments = layout.segments.iter();
    segments
        .map(|d_out| rng.signs([layout.paths, *d_out, layout.d_in]))
        .collect()
}

fn raw(signs: &[Tensor]) -> Vec<&[u8]> {
    signs.iter().map(Tensor::raw).collect()
}

proptest! {
    #[test]
    fn unpacking_undoes_packing(layout in any_layout(), seed in any::<u64>()) {
        layout.check().unwrap();
        let signs = signs(&layout, &mut Rng(seed));
        let packed = layout.pack_signs(&raw(&signs));
        prop_assert_eq!(Some(packed.len()), layout.sign_bytes());
        prop_assert_eq!(layout.unpack_signs(&packed), raw(&signs));
    }

    /// No bit is lost, doubled or invented: padding is zero.
    #[test]
    fn packing_keeps_the_number_of_ones(layout in any_layout(), seed in any::<u64>()) {
        let signs = signs(&layout, &mut Rng(seed));
        let ones = |bytes: &[u8]| bytes.iter().map(|b| b.count_ones()).sum::<u32>();
        let plain: u32 = raw(&signs).into_iter().map(ones).sum();
        prop_assert_eq!(ones(&layout.pack_signs(&raw(&signs))), plain);
    }

    #[test]
    fn every_sign_and_scale_has_a_place_of_its_own(layout in any_layout()) {
        let mut bytes = vec![false; layout.sign_bytes().unwrap()];
        let mut scales = vec![false; layout.scale_count().unwrap()];
        for (s, &d_out) in layout.segments.iter().enumerate() {
            for (path, row) in (0..layout.paths).flat_map(|p| (0..d_out).map(move |r| (p, r))) {
                let scale = layout.scale_index(s, path, row);
                prop_assert!(!std::mem::replace(&mut scales[scale], true));
                for octet in 0..layout.d_in.div_ceil(8) {
                    let byte = layout.sign_byte(s, path, row, octet);
                    prop_assert!(!std::mem::replace(&mut bytes[byte], true));
                }
            }
        }
    }

    /// The order of the documentation, by counting through it.
    #[test]
    fn tiles_stand_in_the_documented_order(layout in any_layout(), seed in any::<u64>()) {
        let signs = signs(&layout, &mut Rng(seed));
        let packed = layout.pack_signs(&raw(&signs));
        let mut tiles = packed.chunks(TILE_BYTES);
        for signs in &signs {
            for (block, path) in blocks(&layout, signs.shape[1]) {
                for input_tile in 0..layout.d_in.div_ceil(32) {
                    for row_tile in 0..layout.row_tiles {
                        let row = (block * layout.row_tiles + row_tile) * 16;
                        let expected = tile(signs, path, row, input_tile * 32);
                        prop_assert_eq!(tiles.next(), Some(expected.as_slice()));
                    }
                }
            }
        }
        prop_assert!(tiles.next().is_none());
    }

    #[test]
    fn scales_stand_beside_their_rows(layout in any_layout(), seed in any::<u64>()) {
        let mut rng = Rng(seed);
        let segments = layout.segments.iter();
        let plain: Vec<_> = segments.map(|d_out| rng.floats(layout.paths * d_out)).collect();
        let slices: Vec<_> = plain.iter().map(Vec::as_slice).collect();
        let packed = layout.pack_scales(&slices);
        let mut scales = packed.iter();
        for (plain, &d_out) in plain.iter().zip(&layout.segments) {
            for (block, path) in blocks(&layout, d_out) {
                for row in block * layout.block_rows()..(block + 1) * layout.block_rows() {
                    let expected = if row < d_out { plain[path * d_out + row] } else { 0.0 };
                    prop_assert_eq!(*scales.next().unwrap(), expected);
                }
            }
        }
        prop_assert!(scales.next().is_none());
    }
}

/// Row blocks of a segment and, within each, paths.
fn blocks(layout: &SignLayout, d_out: usize) -> impl Iterator<Item = (usize, usize)> {
    let (blocks, paths) = (d_out.div_ceil(16 * layout.row_tiles), layout.paths);
    (0..blocks).flat_map(move |block| (0..paths).map(move |path| (block, path)))
}

/// The tile of 16 rows and 32 inputs: four groups of 8 inputs, 16 bytes each, one a row.
fn tile(signs: &Tensor, path: usize, first_row: usize, first_input: usize) -> Vec<u8> {
    let (d_out, d_in) = (signs.shape[1], signs.shape[2]);
    let one = |row: usize, input: usize| {
        row < d_out && input < d_in && signs.sign(path * d_out + row, input) > 0.0
    };
    let byte = |group: usize, lane: usize| {
        let inputs = (0..8).map(|bit| (bit, first_input + group * 8 + bit));
        inputs.fold(0, |sum, (bit, input)| {
            sum | u8::from(one(first_row + lane, input)) << bit
        })
    };
    let groups = 0..4;
    groups
        .flat_map(|group| (0..16).map(move |lane| (group, lane)))
        .map(|(g, l)| byte(g, l))
        .collect()
}

#[test]
fn sizes_are_whole_tiles() {
    let one = layout(1, 1, &[1], 1);
    assert_eq!(
        (one.sign_bytes(), one.scale_count()),
        (Some(TILE_BYTES), Some(16))
    );
    // 17 rows in blocks of 32: one block; 33 inputs: two tiles; 3 paths.
    let odd = layout(33, 3, &[17, 64], 2);
    assert_eq!(
        (
            odd.segment_blocks(0),
            odd.segment_blocks(1),
            odd.row_blocks()
        ),
        (1, 2, 3)
    );
    assert_eq!((odd.first_block(0), odd.first_block(1)), (0, 1));
    assert_eq!(odd.block_bytes(), 3 * 2 * 2 * TILE_BYTES);
    assert_eq!(odd.sign_bytes(), Some(3 * odd.block_bytes()));
    assert_eq!(odd.scale_count(), Some(3 * 3 * 32));
}

#[test]
fn impossible_layouts_are_refused() {
    let huge = [usize::MAX; 20];
    for (bad, reason) in [
        (layout(8, 2, &[8], 0), "row_tiles is 0, it must be 1 to 64"),
        (
            layout(8, 2, &[8], MAX_ROW_TILES + 1),
            "row_tiles is 65, it must be 1 to 64",
        ),
        (
            layout(0, 2, &[8], 1),
            "there must be an input, a path and a segment",
        ),
        (
            layout(8, 0, &[8], 1),
            "there must be an input, a path and a segment",
        ),
        (
            layout(8, 2, &[], 1),
            "there must be an input, a path and a segment",
        ),
        (layout(8, 2, &[8, 0], 1), "a segment has no outputs"),
        (
            layout(usize::MAX, 2, &[8], 1),
            "the size of the packed layer overflows",
        ),
        (
            layout(8, usize::MAX, &[8], 1),
            "the size of the packed layer overflows",
        ),
        (
            layout(8, 1, &huge, 1),
            "the size of the packed layer overflows",
        ),
    ] {
        assert_eq!(bad.check(), Err(reason.to_string()), "{bad:?}");
    }
}
