//! Neither a run of the pool nor the choice of a token allocates, once warm.

use rabitc_runtime::pool::Pool;
use rabitc_runtime::sampler::{Sampler, SamplerOptions};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread. Other threads (the test harness) do not disturb the count.
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn the_count_counts() {
    let before = ALLOCATIONS.get();
    drop(std::hint::black_box(vec![1u8; 100]));
    assert_eq!(ALLOCATIONS.get(), before + 1);
}

#[test]
fn pool_runs() {
    const THREADS: usize = 2;
    let pool = Pool::new(THREADS).unwrap();
    // The count of each worker in its first and its last run; the pool's own work lies between.
    let first: [_; THREADS] = std::array::from_fn(|_| std::sync::Mutex::new(0));
    let last: [_; THREADS] = std::array::from_fn(|_| std::sync::Mutex::new(0));
    let record = |into: &[std::sync::Mutex<usize>; THREADS]| {
        pool.run(&|worker| *into[worker.index].lock().unwrap() = ALLOCATIONS.get())
            .unwrap();
    };
    record(&first);
    for round in 0..200 {
        if round % 50 == 0 {
            // Long enough for the other worker to fall asleep.
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        pool.run(&|worker| (0..10).for_each(|_| worker.wait()))
            .unwrap();
    }
    record(&last);
    for (first, last) in first.iter().zip(&last) {
        assert_eq!(*first.lock().unwrap(), *last.lock().unwrap());
    }
}

#[test]
fn sampling() {
    let logits: Vec<f32> = (0..5000)
        .map(|id| (id * 7919 % 5000) as f32 / 500.0)
        .collect();
    let base = SamplerOptions {
        temperature: 0.8,
        repetition_penalty: 1.1,
        ..SamplerOptions::default()
    };
    for options in [
        SamplerOptions::default(),
        base,
        SamplerOptions { top_k: 40, ..base },
        SamplerOptions {
            top_p: 0.95,
            ..base
        },
        SamplerOptions {
            top_k: 3000,
            top_p: 0.99,
            min_p: 0.01,
            ..base
        },
    ] {
        let mut sampler = Sampler::new(options, logits.len()).unwrap();
        sampler.observe(&[1, 2, 3]).unwrap();
        sampler.sample(&logits).unwrap();
        let before = ALLOCATIONS.get();
        for _ in 0..20 {
            sampler.sample(&logits).unwrap();
        }
        assert_eq!(ALLOCATIONS.get(), before, "{options:?}");
    }
}
