//! Recorded launches measured in turns.

use std::time::{Duration, Instant};

use anyhow::Result;
use rabitc_runtime::cuda::workbench::Recording;

/// Every recording is measured at least so often, however small the budget.
const LEAST_ROUNDS: usize = 4;
/// Rounds after which more say nothing new.
const MOST_ROUNDS: usize = 200;
/// Replays in one measurement.
const REPLAYS: usize = 2;

/// Nanoseconds of a replay of each recording, in the order of the rounds, until `budget` is spent since
/// `start`. `tick` is called once a round.
///
/// # Errors
/// A device that was lost.
pub fn in_turns(
    recordings: &[Recording<'_>],
    start: Instant,
    budget: Duration,
    tick: &mut dyn FnMut(),
) -> Result<Vec<Vec<f64>>> {
    let mut times = vec![Vec::new(); recordings.len()];
    for round in 0..MOST_ROUNDS {
        if round >= LEAST_ROUNDS && start.elapsed() >= budget {
            break;
        }
        for n in 0..recordings.len() {
            // Another one begins every time.
            let n = (n + round) % recordings.len();
            times[n].push(recordings[n].seconds(REPLAYS)? * 1e9);
        }
        tick();
    }
    Ok(times)
}
