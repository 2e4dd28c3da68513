//! A barrier cheap enough to stand between two steps of a few microseconds each.
//!
//! All workers of a run pass it together. It counts arrivals and announces the passing by a
//! generation number, whose lowest bit is the sense of a sense-reversing barrier: no thread can
//! overtake the reset of the counter. It never blocks for ever on a worker that will not come:
//! one that panicked or returned breaks the barrier, and those who wait unwind.

use crate::wait::{WaitPoint, spin_time};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// The longest spin. Most waits are for the end of a step and far shorter; sleeping and being
/// woken takes about this long.
const SPIN: Duration = Duration::from_micros(100);

/// Keeps a value on cache lines of its own (two, since CPUs prefetch them in pairs).
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct OwnLine<T>(pub T);

/// The payload with which workers unwind from a broken barrier.
pub(crate) struct BarrierBroken;

/// A reusable meeting point for a fixed number of workers.
#[derive(Debug)]
pub struct Barrier {
    count: usize,
    spin: Duration,
    arrived: OwnLine<AtomicUsize>,
    generation: OwnLine<AtomicUsize>,
    departed: AtomicUsize,
    broken: AtomicBool,
    waiters: WaitPoint,
}

impl Barrier {
    /// A barrier for `count` workers; a count of 0 is taken as 1.
    pub fn new(count: usize) -> Barrier {
        Barrier {
            count: count.max(1),
            spin: spin_time(count, SPIN),
            arrived: OwnLine::default(),
            generation: OwnLine::default(),
            departed: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
            waiters: WaitPoint::default(),
        }
    }

    /// How many workers it waits for.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Returns when all workers have called it as often as this one. What any worker wrote
    /// before is then visible to all.
    ///
    /// # Panics
    /// Unwinds, without a message, when another worker panicked or returned from the pool's
    /// function, since the meeting cannot happen any more. The pool turns that into an error.
    pub fn wait(&self) {
        // The generation cannot change before this worker has arrived.
        let generation = self.generation.0.load(Ordering::Acquire);
        if self.arrived.0.fetch_add(1, Ordering::AcqRel) + 1 == self.count {
            self.arrived.0.store(0, Ordering::Relaxed);
            self.generation
                .0
                .store(generation.wrapping_add(1), Ordering::Release);
            self.waiters.wake_all();
            return;
        }
        self.waiters.wait_until(self.spin, || {
            self.has_passed(generation) || self.lacks_a_worker()
        });
        // A worker that left after this meeting left after the generation changed, so this look
        // comes last: unchanged, the meeting is off.
        if !self.has_passed(generation) {
            self.break_up();
            std::panic::resume_unwind(Box::new(BarrierBroken));
        }
    }

    /// Says that a worker will not come again in this run.
    pub(crate) fn leave(&self) {
        self.departed.fetch_add(1, Ordering::AcqRel);
        self.waiters.wake_all();
    }

    /// Lets everyone who waits, or will wait, unwind.
    pub(crate) fn break_up(&self) {
        self.broken.store(true, Ordering::Release);
        self.waiters.wake_all();
    }

    /// Makes the barrier new for the next run. No worker may be inside.
    pub(crate) fn reset(&self) {
        self.arrived.0.store(0, Ordering::Relaxed);
        self.departed.store(0, Ordering::Relaxed);
        self.broken.store(false, Ordering::Release);
    }

    fn has_passed(&self, generation: usize) -> bool {
        self.generation.0.load(Ordering::Acquire) != generation
    }

    fn lacks_a_worker(&self) -> bool {
        self.broken.load(Ordering::Acquire) || self.departed.load(Ordering::Acquire) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    /// Each worker writes its own slot, waits, and reads its neighbour's: any worker let through
    /// early reads an old round.
    fn neighbours_agree(count: usize, rounds: usize) {
        let barrier = Barrier::new(count);
        let slots: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for worker in 0..count {
                let (barrier, slots) = (&barrier, &slots);
                scope.spawn(move || {
                    for round in 1..=rounds {
                        slots[worker].store(round, Ordering::Relaxed);
                        barrier.wait();
                        let seen = slots[(worker + 1) % count].load(Ordering::Relaxed);
                        assert_eq!(seen, round);
                        barrier.wait();
                    }
                });
            }
        });
    }

    #[test]
    fn no_worker_passes_early() {
        neighbours_agree(2, 20_000);
        neighbours_agree(3, 3_000);
        neighbours_agree(8, 500);
    }

    #[test]
    fn a_lone_worker_never_waits() {
        let barrier = Barrier::new(0);
        assert_eq!(barrier.count(), 1);
        for _ in 0..1000 {
            barrier.wait();
        }
    }

    #[test]
    fn waiting_for_one_who_left_unwinds() {
        let barrier = Barrier::new(2);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| catch_unwind(AssertUnwindSafe(|| barrier.wait())));
            // Long enough for the waiter to be asleep in most runs.
            std::thread::sleep(Duration::from_millis(5));
            barrier.leave();
            let payload = waiter.join().unwrap().unwrap_err();
            assert!(payload.is::<BarrierBroken>());
        });
        barrier.reset();
        std::thread::scope(|scope| {
            scope.spawn(|| barrier.wait());
            barrier.wait();
        });
    }
}
