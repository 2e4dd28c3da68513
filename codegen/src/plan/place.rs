//! Places buffers in one arena: buffers that live at the same time do not overlap.

use super::launch::Buffer;

/// Buffers start at multiples of this many bytes.
const ALIGNMENT: usize = 64;

/// Where every buffer lies.
pub struct Placement {
    /// Byte offset of every buffer.
    pub offsets: Vec<usize>,
    /// Bytes of the arena.
    pub bytes: usize,
}

/// Largest first, each at the lowest place that is free while it lives. `None` on overflow.
pub fn place(buffers: &[Buffer], live: &[(usize, usize)], rows: usize) -> Option<Placement> {
    let sizes: Vec<usize> = buffers
        .iter()
        .map(|b| {
            let bytes = b.row_bytes.checked_mul(rows)?;
            bytes.checked_next_multiple_of(ALIGNMENT)
        })
        .collect::<Option<_>>()?;
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(sizes[*i]), *i));
    let mut offsets = vec![0usize; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut bytes = 0usize;
    for i in order {
        let overlaps = |j: &usize| live[i].0 <= live[*j].1 && live[*j].0 <= live[i].1;
        let mut busy: Vec<_> = placed.iter().copied().filter(overlaps).collect();
        busy.sort_by_key(|j| offsets[*j]);
        let mut at = 0usize;
        for j in busy {
            if at.checked_add(sizes[i])? <= offsets[j] {
                break;
            }
            at = at.max(offsets[j] + sizes[j]);
        }
        offsets[i] = at;
        bytes = bytes.max(at.checked_add(sizes[i])?);
        placed.push(i);
    }
    Some(Placement { offsets, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn buffers_that_live_together_do_not_overlap(
            items in prop::collection::vec((0usize..5000, 0usize..20, 0usize..6), 1..40),
            rows in 1usize..5,
        ) {
            let buffers: Vec<_> = items.iter().map(|i| Buffer { row_bytes: i.0 }).collect();
            let live: Vec<_> = items.iter().map(|i| (i.1, i.1 + i.2)).collect();
            let p = place(&buffers, &live, rows).unwrap();
            let sum: usize = buffers.iter().map(|b| (b.row_bytes * rows).next_multiple_of(64)).sum();
            prop_assert!(p.bytes <= sum);
            for i in 0..buffers.len() {
                let end = p.offsets[i] + buffers[i].row_bytes * rows;
                prop_assert!(end <= p.bytes && p.offsets[i].is_multiple_of(ALIGNMENT));
                for j in 0..i {
                    let together = live[i].0 <= live[j].1 && live[j].0 <= live[i].1;
                    let apart = end <= p.offsets[j]
                        || p.offsets[j] + buffers[j].row_bytes * rows <= p.offsets[i];
                    prop_assert!(!together || apart);
                }
            }
        }
    }
}
