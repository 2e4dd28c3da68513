//! Tests of the thread pool: every worker takes part, panics surface, nothing hangs.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

fn worker(index: usize, count: usize, barrier: &Barrier) -> Worker<'_> {
    Worker {
        index,
        count,
        barrier,
    }
}

#[test]
fn every_worker_runs_once_per_run() {
    for threads in [1, 2, 3, 7] {
        let pool = Pool::new(threads).unwrap();
        assert_eq!(pool.threads(), threads);
        let calls: Vec<AtomicUsize> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
        for _ in 0..500 {
            pool.run(&|w| {
                assert_eq!(w.count, threads);
                calls[w.index].fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
        }
        assert!(calls.iter().all(|c| c.load(Ordering::Relaxed) == 500));
    }
}

#[test]
fn the_caller_is_worker_zero_and_the_others_stay_the_same_threads() {
    let pool = Pool::new(3).unwrap();
    let seen = Mutex::new(HashSet::new());
    let caller = std::thread::current().id();
    for _ in 0..20 {
        pool.run(&|w| {
            let id = std::thread::current().id();
            assert_eq!(w.index == 0, id == caller);
            lock(&seen).insert((w.index, id));
        })
        .unwrap();
    }
    assert_eq!(lock(&seen).len(), 3);
}

#[test]
fn shared_items_are_given_out_once() {
    for threads in 1..4 {
        let pool = Pool::new(threads).unwrap();
        // Around the size from which ranges are cut, where they differ by one.
        for n in (0..8).chain(60..100).chain([1000, 1001]) {
            let taken: Vec<_> = (0..threads).map(|_| AtomicUsize::new(0)).collect();
            let calls: Vec<_> = (0..n).map(|_| AtomicUsize::new(0)).collect();
            pool.run(&|w| {
                w.share(n, &taken, |range| {
                    assert!(!range.is_empty());
                    for i in range {
                        calls[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
            })
            .unwrap();
            let once = calls.iter().all(|c| c.load(Ordering::Relaxed) == 1);
            assert!(once, "{n} on {threads}");
        }
    }
}

#[test]
fn a_late_worker_is_helped() {
    let pool = Pool::new(2).unwrap();
    let taken = [0, 0].map(AtomicUsize::new);
    let helped = AtomicUsize::new(0);
    pool.run(&|w| {
        let late = w.index == 1;
        w.share(1000, &taken, |range| {
            if late {
                // Until the other one has nothing left to take.
                while taken[1].load(Ordering::Relaxed) < 500 {
                    std::thread::yield_now();
                }
            } else if range.start >= 500 {
                helped.fetch_add(range.len(), Ordering::Relaxed);
            }
        });
    })
    .unwrap();
    assert!(helped.load(Ordering::Relaxed) >= 500 - 500 / 16);
}

#[test]
fn workers_walk_steps_together() {
    const STEPS: usize = 200;
    let pool = Pool::new(3).unwrap();
    let n = 1000;
    let data: Vec<AtomicUsize> = (0..n).map(|_| AtomicUsize::new(0)).collect();
    for _ in 0..5 {
        // Each step reads the mirrored element, which another worker wrote in the step before.
        pool.run(&|w| {
            for step in 0..STEPS {
                for i in w.range(n, 16) {
                    assert_eq!(data[i].load(Ordering::Relaxed) % STEPS, step);
                }
                w.wait();
                for i in w.range(n, 16) {
                    data[n - 1 - i].fetch_add(1, Ordering::Relaxed);
                }
                w.wait();
            }
        })
        .unwrap();
    }
    assert!(data.iter().all(|d| d.load(Ordering::Relaxed) == 5 * STEPS));
}

#[test]
fn idle_workers_sleep_and_wake_again() {
    let pool = Pool::new(2).unwrap();
    let calls = AtomicUsize::new(0);
    for _ in 0..4 {
        std::thread::sleep(SPIN * 20);
        pool.run(&|_| {
            calls.fetch_add(1, Ordering::Relaxed);
        })
        .unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 8);
}

#[test]
fn a_panic_in_any_worker_is_an_error_and_the_pool_lives_on() {
    let pool = Pool::new(3).unwrap();
    for guilty in 0..3 {
        let error = pool
            .run(&|w| {
                w.wait();
                if w.index == guilty {
                    std::panic::resume_unwind(Box::new(format!("step {guilty} failed")));
                }
                w.wait();
            })
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("worker {guilty} panicked: step {guilty} failed")
        );
        pool.run(&|w| w.wait()).unwrap();
    }
}

#[test]
fn a_panic_payload_that_panics_when_dropped_does_no_harm() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("dropped");
        }
    }
    let pool = Pool::new(2).unwrap();
    let error = pool.run(&|w| {
        if w.index == 1 {
            std::panic::resume_unwind(Box::new(Bomb));
        }
    });
    assert!(matches!(
        error,
        Err(Error::WorkerPanicked { worker: 1, .. })
    ));
    pool.run(&|w| w.wait()).unwrap();
}

#[test]
fn unequal_waits_are_an_error_not_a_hang() {
    let pool = Pool::new(3).unwrap();
    for early in 0..3 {
        let error = pool.run(&|w| {
            w.wait();
            if w.index != early {
                w.wait();
            }
        });
        assert!(matches!(error, Err(Error::BarrierMismatch)));
        pool.run(&|w| w.wait()).unwrap();
    }
}

#[test]
fn nesting_is_an_error() {
    let pool = Pool::new(2).unwrap();
    let nested = AtomicUsize::new(0);
    pool.run(&|_| {
        if matches!(pool.run(&|_| {}), Err(Error::NestedRun)) {
            nested.fetch_add(1, Ordering::Relaxed);
        }
    })
    .unwrap();
    assert_eq!(nested.load(Ordering::Relaxed), 2);
    pool.run(&|_| {}).unwrap();
}

#[test]
fn runs_from_several_threads_take_turns() {
    let pool = Pool::new(2).unwrap();
    let (inside, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    pool.run(&|w| {
                        assert!(inside.fetch_add(1, Ordering::Relaxed) < 2);
                        w.wait();
                        inside.fetch_sub(1, Ordering::Relaxed);
                        total.fetch_add(1, Ordering::Relaxed);
                        w.wait();
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(total.load(Ordering::Relaxed), 800);
}

#[test]
fn absurd_thread_counts_are_refused() {
    for threads in [0, MAX_THREADS + 1, usize::MAX] {
        assert!(matches!(Pool::new(threads), Err(Error::ThreadCount { .. })));
    }
}

proptest! {
    #[test]
    fn ranges_partition_in_grains(
        n in prop_oneof![0usize..5000, Just(usize::MAX), Just(usize::MAX - 7)],
        count in 1usize..40,
        grain in 0usize..70,
    ) {
        let barrier = Barrier::new(1);
        let grain_or_one = grain.max(1);
        let mut next = 0;
        let (mut least, mut most) = (usize::MAX, 0);
        for index in 0..count {
            let range = worker(index, count, &barrier).range(n, grain);
            prop_assert_eq!(range.start, next);
            prop_assert!(range.start.is_multiple_of(grain_or_one) || range.start == n);
            let grains = (range.end - range.start).div_ceil(grain_or_one);
            (least, most) = (least.min(grains), most.max(grains));
            next = range.end;
        }
        prop_assert_eq!(next, n);
        prop_assert!(most - least <= 1);
    }
}
