//! From measurements to tiles.

use std::collections::BTreeMap;

use rabitc_passes::tiles::LayerShape;

use super::cache::{Cache, Entry};
use super::host::Host;

/// Candidates whose decoding differs by less than this share are as good as each other there.
const TIE: f64 = 0.02;
/// A candidate whose prompts take longer than the best's by more than this share is left out.
const PROMPT: f64 = 0.1;

/// Which of `times` is best, each the time of a decoded token and of a block of a prompt: of those
/// that are not slow at prompts the fastest at decoding, or of those as fast as it the fastest at
/// prompts. `None` if there are none.
pub fn best(times: &[[f64; 2]]) -> Option<usize> {
    let prompt = times.iter().map(|t| t[1]).min_by(f64::total_cmp)?;
    let fit: Vec<usize> = (0..times.len())
        .filter(|n| times[*n][1] <= prompt * (1.0 + PROMPT))
        .collect();
    let fastest = fit.iter().map(|n| times[*n][0]).min_by(f64::total_cmp)?;
    let ties = fit
        .into_iter()
        .filter(|n| times[*n][0] <= fastest * (1.0 + TIE));
    ties.min_by(|a, b| {
        let [a, b] = [times[*a], times[*b]];
        a[1].total_cmp(&b[1]).then(a[0].total_cmp(&b[0]))
    })
}

/// The row tiles that a cache has for a machine, by shape. Where a shape was measured with several
/// numbers of threads, `host.threads` counts, else the largest.
pub fn tiles(cache: &Cache, host: &Host) -> BTreeMap<LayerShape, usize> {
    let suits = |entry: &&Entry| {
        let threads = entry.host.threads;
        entry.host
            == Host {
                threads,
                ..host.clone()
            }
    };
    let mut entries: Vec<&Entry> = cache.entries.iter().filter(suits).collect();
    // The later ones overwrite.
    entries.sort_by_key(|e| (e.host.threads == host.threads, e.host.threads));
    let choices = entries.into_iter().filter_map(|entry| {
        let times: Vec<_> = entry.candidates.iter().map(|c| c.times()).collect();
        Some((
            entry.shape.layer()?,
            entry.candidates[best(&times)?].row_tiles,
        ))
    });
    choices.collect()
}

#[cfg(test)]
mod tests {
    use super::super::cache::tests::{entry, host};
    use super::*;

    #[test]
    fn decoding_decides_and_prompts_break_ties() {
        assert_eq!(best(&[]), None);
        assert_eq!(best(&[[100.0, 50.0], [90.0, 54.0]]), Some(1));
        assert_eq!(best(&[[100.0, 50.0], [90.0, 60.0]]), Some(0));
        assert_eq!(best(&[[100.0, 9.0], [99.0, 9.5]]), Some(0));
        assert_eq!(best(&[[100.0, 9.0], [99.0, 9.0]]), Some(1));
        // Within 2% of the fastest, not of each other.
        assert_eq!(best(&[[100.0, 9.0], [101.5, 8.9], [103.0, 8.8]]), Some(1));
    }

    #[test]
    fn only_what_was_measured_here_counts() {
        let mut cache = Cache::default();
        cache.put(entry(host("here", 2), 64, &[(1, 100.0), (4, 50.0)]));
        cache.put(entry(host("there", 2), 64, &[(1, 10.0), (4, 50.0)]));
        cache.put(entry(host("there", 2), 128, &[(1, 10.0)]));
        let tiles = tiles(&cache, &host("here", 2));
        let found: Vec<_> = tiles.iter().map(|(s, t)| (s.d_in, *t)).collect();
        assert_eq!(found, [(64, 4)]);
    }

    #[test]
    fn the_same_number_of_threads_comes_first() {
        let mut cache = Cache::default();
        for (threads, tiles) in [(1, 1), (2, 2), (8, 8)] {
            cache.put(entry(host("here", threads), 64, &[(tiles, 1.0)]));
        }
        let of = |threads| tiles(&cache, &host("here", threads)).into_values().next();
        assert_eq!([of(1), of(2), of(4)], [Some(1), Some(2), Some(8)]);
    }
}
