//! How fast this machine reads memory: what generation speed is measured against.
//!
//! Every thread reads a buffer of its own from beginning to end, far more in all than the caches
//! hold. The threads are those of the runtime's pool, so that the figure is for as many as run
//! the model.

use std::hint::black_box;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use memmap2::MmapMut;
use rabitc_runtime::pool::Pool;

/// The fewest and the most bytes of all buffers together.
const LEAST: usize = 256 << 20;
const MOST: usize = 1 << 30;
/// How many times the last cache's size is read.
const CACHES: usize = 4;
/// A measurement takes at least this long.
const TIME: Duration = Duration::from_millis(100);
/// Bytes that are added up together, by as many accumulators as hide the latency of an addition.
const BLOCK: usize = 256;

/// Buffers to read, and the threads that read them.
pub struct Bandwidth {
    pool: Arc<Pool>,
    buffers: Vec<MmapMut>,
}

impl Bandwidth {
    /// Maps and fills the buffers, up to 1 GiB together.
    ///
    /// # Errors
    /// Memory that the system does not grant.
    pub fn new(pool: &Arc<Pool>) -> Result<Bandwidth> {
        let each = (more_than_caches() / pool.threads()).next_multiple_of(BLOCK);
        let map = |_| -> Result<Mutex<MmapMut>> {
            let map = MmapMut::map_anon(each).context("memory to measure the bandwidth with")?;
            // Larger pages take translation out of the measurement; without them it still works.
            #[cfg(target_os = "linux")]
            let _ = map.advise(memmap2::Advice::HugePage);
            Ok(Mutex::new(map))
        };
        let buffers = (0..pool.threads()).map(map).collect::<Result<Vec<_>>>()?;
        // Each thread touches its buffer first, which puts it into the memory closest to it.
        pool.run(&|worker| {
            let mut buffer = buffers[worker.index]
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            buffer.fill(1);
        })?;
        let buffers = buffers
            .into_iter()
            .map(|b| b.into_inner().unwrap_or_else(PoisonError::into_inner));
        Ok(Bandwidth {
            pool: Arc::clone(pool),
            buffers: buffers.collect(),
        })
    }

    /// Reads the buffers for a while; bytes a second of all threads together.
    pub fn measure(&self) -> Result<f64> {
        let total: usize = self.buffers.iter().map(|b| b.len()).sum();
        let (start, mut read) = (Instant::now(), 0);
        while read == 0 || start.elapsed() < TIME {
            self.pool.run(&|worker| {
                black_box(sum(black_box(&self.buffers[worker.index])));
            })?;
            read += total;
        }
        Ok(read as f64 / start.elapsed().as_secs_f64())
    }
}

/// So many bytes that little of them is still in the caches when they are read again, from 256 MiB
/// to 1 GiB.
pub fn more_than_caches() -> usize {
    let cache = last_cache(Path::new("/sys/devices/system/cpu/cpu0/cache"));
    cache.map_or(MOST, |bytes| {
        bytes.saturating_mul(CACHES).clamp(LEAST, MOST)
    })
}

/// Adds up `bytes` as 64-bit integers; what is left of a block at the end is not read.
fn sum(bytes: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the CPU has AVX2.
        return unsafe { sum_avx2(bytes) };
    }
    sum_plain(bytes)
}

fn sum_plain(bytes: &[u8]) -> u64 {
    let mut sums = [0u64; BLOCK / 8];
    for block in bytes.as_chunks::<BLOCK>().0 {
        for (sum, word) in sums.iter_mut().zip(block.as_chunks().0) {
            *sum = sum.wrapping_add(u64::from_ne_bytes(*word));
        }
    }
    sums.into_iter().fold(0, u64::wrapping_add)
}

/// The same with wide loads, which the portable form has only where the whole program is compiled
/// for such machines, and only if it is optimised.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(bytes: &[u8]) -> u64 {
    use std::arch::x86_64::{__m256i, _mm256_add_epi64, _mm256_loadu_si256, _mm256_setzero_si256};
    let mut sums = [_mm256_setzero_si256(); BLOCK / 32];
    for block in bytes.as_chunks::<BLOCK>().0 {
        for (sum, part) in sums.iter_mut().zip(block.as_chunks::<32>().0) {
            // SAFETY: `part` is 32 bytes, and the load needs no alignment.
            let part = unsafe { _mm256_loadu_si256(part.as_ptr().cast::<__m256i>()) };
            *sum = _mm256_add_epi64(*sum, part);
        }
    }
    let mut lanes = [0u64; BLOCK / 8];
    for (lanes, sum) in lanes.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
        // SAFETY: a vector is four integers, and any bits are integers.
        *lanes = unsafe { std::mem::transmute::<__m256i, [u64; 4]>(sum) };
    }
    lanes.into_iter().fold(0, u64::wrapping_add)
}

/// The size of the last cache, where the system tells.
fn last_cache(folder: &Path) -> Option<usize> {
    let text = |name: &str, file: &str| std::fs::read_to_string(folder.join(name).join(file)).ok();
    let entries = std::fs::read_dir(folder).ok()?;
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let sizes = names.filter_map(|name| {
        let level: u32 = text(&name, "level")?.trim().parse().ok()?;
        Some((level, cache_size(text(&name, "size")?.trim())?))
    });
    sizes.max().map(|(_, bytes)| bytes)
}

/// Parses the kernel's form of a cache size, such as `32768K`.
fn cache_size(text: &str) -> Option<usize> {
    let (number, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(number) => (number, &text[number.len()..]),
        None => (text, ""),
    };
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    number.parse::<usize>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sums_read_every_byte() {
        let bytes: Vec<u8> = (0..BLOCK * 5).map(|i| (i * 31 + i / 7) as u8).collect();
        let expected = sum_plain(&bytes);
        assert_eq!(sum(&bytes), expected);
        for at in (0..bytes.len()).step_by(37) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_ne!(sum(&changed), expected, "{at}");
            assert_eq!(sum(&changed), sum_plain(&changed));
        }
    }

    #[test]
    fn cache_sizes() {
        assert_eq!(cache_size("48K"), Some(48 << 10));
        assert_eq!(cache_size("2M"), Some(2 << 20));
        assert_eq!(cache_size("512"), Some(512));
        assert_eq!(cache_size("K"), None);
        assert_eq!(cache_size("99999999999999999999K"), None);
    }

    #[test]
    fn the_last_cache_is_the_highest_level() {
        let dir = tempfile::tempdir().unwrap();
        for (name, level, size) in [
            ("index0", "1", "48K"),
            ("index3", "3", "32M"),
            ("index2", "2", "2M"),
        ] {
            let index = dir.path().join(name);
            std::fs::create_dir(&index).unwrap();
            std::fs::write(index.join("level"), level).unwrap();
            std::fs::write(index.join("size"), format!("{size}\n")).unwrap();
        }
        assert_eq!(last_cache(dir.path()), Some(32 << 20));
        assert_eq!(last_cache(&dir.path().join("none")), None);
    }
}
