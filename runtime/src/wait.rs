//! How a thread waits for another: it spins for a bounded time, then sleeps.
//!
//! A step of a plan takes microseconds, so sleeping at once would cost more than the step. But on
//! a loaded machine the thread waited for may need this very core, and then spinning only delays
//! it. So each thread learns: every spin that was in vain halves the next, until spinning pays
//! again. There is no phase of `sched_yield` in between: on a core shared with another process it
//! gives the rest of a time slice away, some milliseconds, for a wait of microseconds, whereas a
//! sleeper is put back on a core as soon as it is woken, and until then leaves its own core to a
//! thread that is waiting for one.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often a spinning thread looks at the condition before it looks at the clock.
const SPINS_PER_CLOCK: usize = 32;

/// After this many spins in vain the time no longer shrinks; it is below a microsecond then.
const MOST_HALVINGS: u32 = 8;

/// Every so many shortened spins one is full again, to notice that the machine is free.
const PROBE_EVERY: u32 = 32;

thread_local! {
    static EXPERIENCE: Cell<Experience> = const {
        Cell::new(Experience { in_vain: 0, shortened: 0 })
    };
}

/// What a thread has learnt of spinning.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Experience {
    /// Rises with each spin in vain, halves with each that paid.
    in_vain: u32,
    /// Shortened spins since the last full one.
    shortened: u32,
}

impl Experience {
    /// By how many powers of two to shorten the next spin.
    fn halvings(self) -> u32 {
        if self.shortened < PROBE_EVERY {
            self.in_vain
        } else {
            0
        }
    }

    /// What is known after a spin that was, or was not, in vain.
    fn after(self, paid: bool) -> Experience {
        match (paid, self.halvings()) {
            (true, _) => Experience {
                in_vain: self.in_vain / 2,
                shortened: 0,
            },
            (false, 0) => Experience {
                in_vain: self.in_vain.max(1),
                shortened: 0,
            },
            (false, _) => Experience {
                in_vain: (self.in_vain + 1).min(MOST_HALVINGS),
                shortened: self.shortened + 1,
            },
        }
    }
}

/// The longest time to spin with `threads` threads: `most`, or none if there are more of them
/// than cores, for then the thread waited for may need this one.
pub(crate) fn spin_time(threads: usize, most: Duration) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if threads > cores {
        Duration::ZERO
    } else {
        most
    }
}

/// A place where threads wait for a condition on atomics that other threads change.
#[derive(Debug, Default)]
pub(crate) struct WaitPoint {
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    woken: Condvar,
}

impl WaitPoint {
    /// Returns once `ready` is true; spins no longer than `spin`. `ready` must load with `Acquire`
    /// whatever it publishes, and whoever makes it true must call [`WaitPoint::wake_all`]
    /// afterwards.
    pub fn wait_until(&self, spin: Duration, ready: impl Fn() -> bool) {
        if !ready() && !spin_until(spin, &ready) {
            self.sleep_until(&ready);
        }
    }

    /// Wakes every sleeper to look at its condition again.
    pub fn wake_all(&self) {
        // Pairs with the fence in `sleep_until`: either this thread sees the sleeper, or the
        // sleeper sees the change made before this call.
        fence(Ordering::SeqCst);
        if self.sleepers.load(Ordering::Relaxed) > 0 {
            // A sleeper holds the lock from its last look at the condition until it sleeps.
            drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
            self.woken.notify_all();
        }
    }

    fn sleep_until(&self, ready: &impl Fn() -> bool) {
        self.sleepers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        while !ready() {
            guard = self
                .woken
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(guard);
        self.sleepers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Spins for as long as `most` and experience allow; whether `ready` came true in time.
fn spin_until(most: Duration, ready: &impl Fn() -> bool) -> bool {
    if most.is_zero() {
        return false;
    }
    let experience = EXPERIENCE.get();
    let allowed = most / (1 << experience.halvings());
    let paid = spins_within(allowed, ready);
    EXPERIENCE.set(experience.after(paid));
    paid
}

fn spins_within(allowed: Duration, ready: &impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..SPINS_PER_CLOCK {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if start.elapsed() >= allowed {
            return ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    fn hand_over(spin: Duration, rounds: usize) {
        let point = Arc::new((WaitPoint::default(), AtomicUsize::new(0)));
        let other = Arc::clone(&point);
        let echo = std::thread::spawn(move || {
            let (point, turn) = &*other;
            for round in 0..rounds {
                point.wait_until(spin, || turn.load(Ordering::Acquire) == 2 * round + 1);
                turn.store(2 * round + 2, Ordering::Release);
                point.wake_all();
            }
        });
        let (point, turn) = &*point;
        for round in 0..rounds {
            turn.store(2 * round + 1, Ordering::Release);
            point.wake_all();
            point.wait_until(spin, || turn.load(Ordering::Acquire) == 2 * round + 2);
        }
        echo.join().unwrap();
        assert_eq!(turn.load(Ordering::Relaxed), 2 * rounds);
    }

    #[test]
    fn no_wake_up_is_lost_when_threads_sleep_at_once() {
        hand_over(Duration::ZERO, 5_000);
    }

    #[test]
    fn no_wake_up_is_lost_between_spinning_and_sleeping() {
        hand_over(Duration::from_nanos(300), 5_000);
        hand_over(Duration::from_micros(5), 5_000);
    }

    #[test]
    fn a_sleeper_is_woken() {
        let point = Arc::new((WaitPoint::default(), AtomicBool::new(false)));
        let other = Arc::clone(&point);
        let sleeper = std::thread::spawn(move || {
            let (point, flag) = &*other;
            point.wait_until(Duration::from_micros(1), || flag.load(Ordering::Acquire));
        });
        while point.0.sleepers.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        point.1.store(true, Ordering::Release);
        point.0.wake_all();
        sleeper.join().unwrap();
    }

    #[test]
    fn spins_in_vain_get_shorter_with_a_full_one_now_and_then() {
        let mut experience = Experience {
            in_vain: 0,
            shortened: 0,
        };
        let mut full = 0;
        for _ in 0..1000 {
            full += usize::from(experience.halvings() == 0);
            experience = experience.after(false);
        }
        assert_eq!(experience.in_vain, MOST_HALVINGS);
        assert_eq!(full, 1000_usize.div_ceil(PROBE_EVERY as usize + 1));
    }

    #[test]
    fn spins_that_pay_get_longer() {
        let mut experience = Experience {
            in_vain: MOST_HALVINGS,
            shortened: 3,
        };
        for _ in 0..4 {
            assert!(experience.halvings() > 0);
            experience = experience.after(true);
        }
        assert_eq!(experience.halvings(), 0);
    }

    #[test]
    fn more_threads_than_cores_do_not_spin() {
        let most = Duration::from_micros(1);
        assert_eq!(spin_time(1, most), most);
        assert_eq!(spin_time(1 << 20, most), Duration::ZERO);
    }
}
