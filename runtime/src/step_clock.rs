//! Where the time of a run goes, launch by launch, as one worker sees it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Adds up, over any number of runs of one program, the time that worker 0 spends on each step,
/// and the time that it waits for other workers between steps.
#[derive(Debug, Default)]
pub struct StepClock {
    steps: Vec<AtomicU64>,
    waiting: AtomicU64,
}

impl StepClock {
    /// A clock for programs of up to `steps` steps.
    pub fn new(steps: usize) -> StepClock {
        StepClock {
            steps: (0..steps).map(|_| AtomicU64::new(0)).collect(),
            waiting: AtomicU64::new(0),
        }
    }

    /// Time on each step.
    pub fn steps(&self) -> Vec<Duration> {
        let times = self.steps.iter().map(|t| t.load(Ordering::Relaxed));
        times.map(Duration::from_nanos).collect()
    }

    /// Time between steps.
    pub fn waiting(&self) -> Duration {
        Duration::from_nanos(self.waiting.load(Ordering::Relaxed))
    }

    pub(crate) fn step<T>(&self, step: usize, work: impl FnOnce() -> T) -> T {
        timed(self.steps.get(step), work)
    }

    pub(crate) fn wait<T>(&self, work: impl FnOnce() -> T) -> T {
        timed(Some(&self.waiting), work)
    }
}

fn timed<T>(to: Option<&AtomicU64>, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    if let Some(to) = to {
        to.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
    }
    result
}
