//! Zeroed, aligned memory of the executor: arenas and scratch buffers.
//!
//! Memory comes straight from the operating system as whole pages. Pages are zero, cost nothing
//! until first touched, and begin on an address that suits every vector width.

use crate::error::Error;
use memmap2::MmapMut;

/// The alignment every buffer has at least: a cache line, and the widest vector. In bytes.
pub const ALIGN: usize = 64;

/// A zero-initialised byte buffer, aligned to at least [`ALIGN`] (in fact to a page).
#[derive(Debug)]
pub struct AlignedBytes {
    map: MmapMut,
    len: usize,
}

impl AlignedBytes {
    /// A buffer of `len` zero bytes; `what` names it in errors. A length of 0 is fine.
    ///
    /// # Errors
    /// The system not granting that much address space.
    pub fn zeroed(len: usize, what: &'static str) -> Result<AlignedBytes, Error> {
        let map = MmapMut::map_anon(len.max(1)).map_err(|source| Error::Map {
            what,
            bytes: len,
            source,
        })?;
        Ok(AlignedBytes { map, len })
    }

    /// The size in bytes, as asked for.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the size is 0.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.map[..self.len]
    }

    /// The bytes, for writing.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.map[..self.len]
    }

    /// Where the bytes begin. It stays the same while the buffer lives, also when it is moved.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// The bytes as `f32`; the last `len % 4` bytes are left out.
    pub fn as_f32(&self) -> &[f32] {
        bytemuck::cast_slice(&self.as_slice()[..self.len / 4 * 4])
    }

    /// The bytes as `f32` for writing; the last `len % 4` bytes are left out.
    pub fn as_mut_f32(&mut self) -> &mut [f32] {
        let whole = self.len / 4 * 4;
        bytemuck::cast_slice_mut(&mut self.as_mut_slice()[..whole])
    }
}

/// `len` rounded up to a multiple of [`ALIGN`]; `None` if that overflows.
pub fn align_up(len: usize) -> Option<usize> {
    len.checked_next_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zero_aligned_and_of_the_asked_length() {
        for len in [0, 1, 63, 64, 4096, 100_003] {
            let mut buffer = AlignedBytes::zeroed(len, "a test").unwrap();
            assert_eq!(buffer.as_mut_ptr() as usize % ALIGN, 0);
            assert_eq!((buffer.len(), buffer.is_empty()), (len, len == 0));
            assert_eq!(buffer.as_slice().len(), len);
            assert!(buffer.as_slice().iter().all(|&b| b == 0));
            assert_eq!(buffer.as_f32().len(), len / 4);
        }
    }

    #[test]
    fn floats_and_bytes_are_the_same_memory() {
        let mut buffer = AlignedBytes::zeroed(10, "a test").unwrap();
        buffer.as_mut_f32()[1] = 1.5;
        assert_eq!(buffer.as_slice()[4..8], 1.5f32.to_ne_bytes());
        buffer.as_mut_slice()[9] = 7;
        assert_eq!(buffer.as_f32(), [0.0, 1.5]);
    }

    #[test]
    fn the_address_survives_a_move() {
        let mut buffer = AlignedBytes::zeroed(4096, "a test").unwrap();
        let before = buffer.as_mut_ptr();
        let mut moved = Box::new(buffer);
        assert_eq!(moved.as_mut_ptr(), before);
    }

    #[test]
    fn an_impossible_size_is_an_error_that_names_it() {
        for len in [1 << 60, usize::MAX] {
            let error = AlignedBytes::zeroed(len, "the arena").unwrap_err();
            let message = error.to_string();
            assert!(message.contains(&format!("{len} bytes for the arena")));
        }
    }

    #[test]
    fn rounding_up() {
        let cases = [(0, 0), (1, 64), (64, 64), (65, 128)];
        assert!(cases.iter().all(|&(len, up)| align_up(len) == Some(up)));
        assert_eq!(align_up(usize::MAX), None);
    }
}
