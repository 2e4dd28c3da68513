//! The keys and values of the tokens so far, one pair of tables a layer, in `f32`.
//!
//! Layouts are those that the attention kernels read:
//! - keys `[n_kv_heads][capacity / 16][head_dim][16]`: 16 positions lie side by side, so a vector
//!   holds the scores of 16 positions and no horizontal sum is needed;
//! - values `[n_kv_heads][capacity][head_dim]`: a position's row is added, times its weight.
//!
//! One mapping holds all layers. The system provides its pages zeroed when first touched, so a
//! large context costs memory only as it fills.

use crate::aligned::AlignedBytes;
use crate::error::Error;

/// How many positions lie side by side in a key block.
pub const BLOCK: usize = 16;

/// The size of an element in bytes.
const ELEMENT: usize = size_of::<f32>();

/// What one layer keeps a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerShape {
    /// Heads of keys and values.
    pub n_kv_heads: usize,
    /// Channels a head.
    pub head_dim: usize,
}

/// Where one layer's tables lie. Strides are in bytes.
#[derive(Clone, Copy, Debug)]
pub struct LayerCache {
    /// The first byte of the keys, aligned to 64.
    pub k: *mut u8,
    /// The first byte of the values, aligned to 64.
    pub v: *mut u8,
    /// From one head's keys to the next head's.
    pub k_head_stride: usize,
    /// From one block of 16 positions to the next within a head's keys.
    pub k_block_stride: usize,
    /// From one head's values to the next head's.
    pub v_head_stride: usize,
    /// From one position to the next within a head's values.
    pub v_pos_stride: usize,
}

/// The caches of all layers for one sequence.
#[derive(Debug)]
pub struct KvCache {
    memory: AlignedBytes,
    layers: Vec<Layer>,
    capacity: usize,
}

#[derive(Debug)]
struct Layer {
    shape: LayerShape,
    k_offset: usize,
    v_offset: usize,
}

impl KvCache {
    /// Caches for `layers`, each with room for `positions` tokens, rounded up to a multiple
    /// of 16.
    ///
    /// # Errors
    /// A zero count, a size beyond the address space, or memory that the system does not grant;
    /// the last names the bytes asked for.
    pub fn new(layers: &[LayerShape], positions: usize) -> Result<KvCache, Error> {
        let overflow = || Error::SizeOverflow {
            what: "the key-value cache",
        };
        if positions == 0 {
            return Err(refused("a context of 0 tokens".to_owned()));
        }
        let capacity = positions
            .checked_next_multiple_of(BLOCK)
            .ok_or_else(overflow)?;
        let (mut placed, mut end) = (Vec::with_capacity(layers.len()), 0usize);
        for (index, &shape) in layers.iter().enumerate() {
            if shape.n_kv_heads == 0 || shape.head_dim == 0 {
                return Err(refused(format!("layer {index} has no channels: {shape:?}")));
            }
            // A multiple of 64 bytes, since the capacity is a multiple of 16 floats.
            let table = table_bytes(shape, capacity).ok_or_else(overflow)?;
            let k_offset = end;
            let v_offset = k_offset.checked_add(table).ok_or_else(overflow)?;
            end = v_offset.checked_add(table).ok_or_else(overflow)?;
            placed.push(Layer {
                shape,
                k_offset,
                v_offset,
            });
        }
        Ok(KvCache {
            memory: AlignedBytes::zeroed(end, "the key-value cache")?,
            layers: placed,
            capacity,
        })
    }

    /// How many positions fit; a multiple of 16.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// How many layers there are.
    pub fn layer_count(&self) -> usize {
        self.layers.len()
    }

    /// The size of all tables in bytes, whether touched yet or not.
    pub fn bytes(&self) -> usize {
        self.memory.len()
    }

    /// The addresses and strides of a layer, for kernels; `None` if there is no such layer.
    /// They stay valid while the cache lives.
    pub fn layer(&mut self, layer: usize) -> Option<LayerCache> {
        let base = self.memory.as_mut_ptr();
        let Layer {
            shape,
            k_offset,
            v_offset,
        } = self.layers.get(layer)?;
        Some(LayerCache {
            k: base.wrapping_add(*k_offset),
            v: base.wrapping_add(*v_offset),
            k_head_stride: self.capacity * shape.head_dim * ELEMENT,
            k_block_stride: BLOCK * shape.head_dim * ELEMENT,
            v_head_stride: self.capacity * shape.head_dim * ELEMENT,
            v_pos_stride: shape.head_dim * ELEMENT,
        })
    }

    /// One number of a layer's keys; `None` outside the table.
    pub fn key(&self, layer: usize, head: usize, position: usize, channel: usize) -> Option<f32> {
        let layer = self.holding(layer, head, position, channel)?;
        let head_dim = layer.shape.head_dim;
        let block = head * (self.capacity / BLOCK) + position / BLOCK;
        let element = (block * head_dim + channel) * BLOCK + position % BLOCK;
        self.element(layer.k_offset, element)
    }

    /// One number of a layer's values; `None` outside the table.
    pub fn value(&self, layer: usize, head: usize, position: usize, channel: usize) -> Option<f32> {
        let layer = self.holding(layer, head, position, channel)?;
        let row = head * self.capacity + position;
        self.element(layer.v_offset, row * layer.shape.head_dim + channel)
    }

    fn holding(&self, layer: usize, head: usize, pos: usize, channel: usize) -> Option<&Layer> {
        let layer = self.layers.get(layer)?;
        let LayerShape {
            n_kv_heads,
            head_dim,
        } = layer.shape;
        (head < n_kv_heads && pos < self.capacity && channel < head_dim).then_some(layer)
    }

    fn element(&self, table: usize, element: usize) -> Option<f32> {
        self.memory.as_f32().get(table / ELEMENT + element).copied()
    }
}

/// The size of one table of a layer, keys or values.
fn table_bytes(shape: LayerShape, capacity: usize) -> Option<usize> {
    shape
        .n_kv_heads
        .checked_mul(capacity)?
        .checked_mul(shape.head_dim)?
        .checked_mul(ELEMENT)
}

fn refused(reason: String) -> Error {
    Error::CacheShape { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shape(n_kv_heads: usize, head_dim: usize) -> LayerShape {
        LayerShape {
            n_kv_heads,
            head_dim,
        }
    }

    /// The table index, in elements from the start of all memory, that the layout's formula
    /// gives, written from the strides a kernel gets.
    fn by_strides(cache: &mut KvCache, layer: usize, at: (usize, usize, usize)) -> (usize, usize) {
        let base = cache.memory.as_mut_ptr() as usize;
        let tables = cache.layer(layer).unwrap();
        let (head, pos, channel) = at;
        let k = tables.k as usize - base
            + head * tables.k_head_stride
            + pos / BLOCK * tables.k_block_stride
            + (channel * BLOCK + pos % BLOCK) * ELEMENT;
        let v = tables.v as usize - base
            + head * tables.v_head_stride
            + pos * tables.v_pos_stride
            + channel * ELEMENT;
        (k / ELEMENT, v / ELEMENT)
    }

    proptest! {
        #[test]
        fn every_number_has_a_place_of_its_own(
            layers in prop::collection::vec((1usize..4, 1usize..9), 1..4),
            positions in 1usize..50,
        ) {
            let shapes: Vec<_> = layers.iter().map(|&(h, d)| shape(h, d)).collect();
            let mut cache = KvCache::new(&shapes, positions).unwrap();
            prop_assert_eq!(cache.capacity(), positions.next_multiple_of(16));
            let total = cache.bytes() / ELEMENT;
            let floats = cache.memory.as_mut_f32();
            (0..total).for_each(|i| floats[i] = i as f32);
            let mut used = vec![false; total];
            for (layer, shape) in shapes.iter().enumerate() {
                for head in 0..shape.n_kv_heads {
                    for pos in 0..cache.capacity() {
                        for channel in 0..shape.head_dim {
                            let (k, v) = by_strides(&mut cache, layer, (head, pos, channel));
                            prop_assert_eq!(cache.key(layer, head, pos, channel), Some(k as f32));
                            prop_assert_eq!(cache.value(layer, head, pos, channel), Some(v as f32));
                            prop_assert!(!used[k] && !used[v] && k != v);
                            (used[k], used[v]) = (true, true);
                        }
                    }
                }
            }
            prop_assert!(used.iter().all(|&u| u));
        }
    }

    #[test]
    fn tables_are_aligned_and_begin_as_zero() {
        let mut cache = KvCache::new(&[shape(1, 1), shape(3, 5)], 17).unwrap();
        for layer in 0..2 {
            let tables = cache.layer(layer).unwrap();
            assert_eq!(tables.k as usize % 64, 0);
            assert_eq!(tables.v as usize % 64, 0);
        }
        assert!(cache.memory.as_f32().iter().all(|&x| x == 0.0));
        assert_eq!(cache.layer_count(), 2);
    }

    #[test]
    fn outside_the_tables_there_is_nothing() {
        let mut cache = KvCache::new(&[shape(2, 4)], 16).unwrap();
        assert!(cache.layer(1).is_none());
        for at in [(1, 0, 0, 0), (0, 2, 0, 0), (0, 0, 16, 0), (0, 0, 0, 4)] {
            assert_eq!(cache.key(at.0, at.1, at.2, at.3), None);
            assert_eq!(cache.value(at.0, at.1, at.2, at.3), None);
        }
    }

    #[test]
    fn a_huge_context_costs_nothing_until_it_is_used() {
        let llama_7b = [shape(32, 128); 32];
        let cache = KvCache::new(&llama_7b, 4096).unwrap();
        assert_eq!(cache.bytes(), 4 << 30);
        assert_eq!(cache.value(31, 31, 4095, 127), Some(0.0));
    }

    #[test]
    fn impossible_shapes_are_errors() {
        let refused = |layers: &[LayerShape], positions| {
            KvCache::new(layers, positions).unwrap_err().to_string()
        };
        assert!(refused(&[shape(1, 1)], 0).contains("0 tokens"));
        assert!(refused(&[shape(1, 1), shape(0, 1)], 1).contains("layer 1"));
        assert!(refused(&[shape(1, 0)], 1).contains("no channels"));
        assert!(refused(&[shape(1, 1)], usize::MAX).contains("address space"));
        assert!(refused(&[shape(usize::MAX, 2)], 1).contains("address space"));
        assert!(refused(&[shape(1 << 30, 1 << 30)], 1 << 16).contains("address space"));
        // 2 tables of 2^(20 + 20 + 14 + 2) bytes: representable, but no machine has them.
        let too_large = refused(&[shape(1 << 20, 1 << 20)], 1 << 14);
        assert!(too_large.contains(&format!("{} bytes", 1u64 << 57)));
    }
}
