//! What the thread pool costs: a barrier, a run, a run after a pause, and a decode-like sequence
//! of memory-reading steps. `--load` keeps one core busy with another thread meanwhile, which
//! should cost the sequence that core's share and little more.
//!
//! `cargo bench -p rabitc-runtime --bench pool -- [--load] [--threads N]`

use rabitc_runtime::pool::{Pool, Worker};
use rabitc_runtime::topology::default_threads;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const STEPS: usize = 200;
const WORDS: usize = 1 << 23;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let after = |name: &str| args.iter().position(|arg| arg == name).map(|at| at + 1);
    let threads = after("--threads").and_then(|at| args.get(at)?.parse().ok());
    let threads = threads.unwrap_or_else(default_threads);
    let pool = Pool::new(threads).expect("a pool");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        if after("--load").is_some() {
            scope.spawn(|| while !black_box(stop.load(Ordering::Relaxed)) {});
        }
        measure(&pool);
        stop.store(true, Ordering::Relaxed);
    });
}

fn measure(pool: &Pool) {
    println!("{} threads", pool.threads());
    report("barrier", 1000, || {
        pool.run(&|w| (0..1000).for_each(|_| w.wait()))
            .expect("run")
    });
    report("run", 1, || pool.run(&|_| {}).expect("run"));
    for pause in [300, 1000, 10_000].map(Duration::from_micros) {
        let mut spent = Vec::new();
        for _ in 0..100 {
            std::thread::sleep(pause);
            let start = Instant::now();
            pool.run(&|_| {}).expect("run");
            spent.push(start.elapsed());
        }
        spent.sort();
        println!(
            "run after {pause:?}: median {:?}, 95th {:?}",
            spent[50], spent[95]
        );
    }
    let data = vec![1u64; WORDS];
    for kib in [32, 320, 1600] {
        report(&format!("step of {kib} KiB"), STEPS, || {
            walk(pool, &data, kib * 128)
        });
    }
}

/// A sequence of steps, each of which reads the next `words` of `data`.
fn walk(pool: &Pool, data: &[u64], words: usize) {
    let task = |worker: Worker<'_>| {
        for step in 0..STEPS {
            let first = step * words % (data.len() - words);
            let part = worker.range(words, 8);
            let part = &data[first + part.start..first + part.end];
            black_box(part.iter().sum::<u64>());
            worker.wait();
        }
    };
    pool.run(&task).expect("run");
}

/// Prints median and 95th percentile of a call, divided by `per`, over about half a second.
fn report(name: &str, per: usize, mut call: impl FnMut()) {
    let (begin, mut spent) = (Instant::now(), Vec::new());
    while begin.elapsed() < Duration::from_millis(700) {
        let start = Instant::now();
        call();
        spent.push(start.elapsed());
    }
    let mean = spent.iter().sum::<Duration>() / (spent.len() * per) as u32;
    spent.sort();
    let at = |percent: usize| spent[spent.len() * percent / 100] / per as u32;
    println!(
        "{name}: mean {mean:?}, median {:?}, 95th {:?}",
        at(50),
        at(95)
    );
}
