//! A persistent pool of threads that run one function together.
//!
//! The executor runs a whole decode step as one [`Pool::run`]: every worker walks the same list of
//! steps, takes its share of each ([`Worker::range`]) and meets the others in between
//! ([`Worker::wait`]). A run allocates nothing, and threads wait a moment before they sleep, so
//! that the next token finds them awake.

use crate::barrier::{Barrier, BarrierBroken, OwnLine};
use crate::error::Error;
use crate::wait::{WaitPoint, spin_time};
use std::any::Any;
use std::cell::Cell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// More threads than any machine has cores; a larger count is a mistake.
pub const MAX_THREADS: usize = 1024;

/// The longest spin between runs. Between two tokens the caller samples and prints, which takes
/// about this long.
const SPIN: Duration = Duration::from_micros(200);

/// Pieces that a worker takes its range in. More of them let workers end closer to each other,
/// fewer keep each stream of memory longer.
const PIECES: usize = 16;

/// What the workers run.
type Task<'a> = dyn Fn(Worker<'_>) + Sync + 'a;

thread_local! {
    /// Whether this thread is executing a pool's function.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// One thread's view of a run.
#[derive(Clone, Copy, Debug)]
pub struct Worker<'a> {
    /// Which worker this is, 0 to `count - 1`; 0 is the thread that called [`Pool::run`].
    pub index: usize,
    /// How many workers take part.
    pub count: usize,
    /// Where they meet.
    pub barrier: &'a Barrier,
}

impl Worker<'_> {
    /// Waits for all workers; see [`Barrier::wait`].
    pub fn wait(&self) {
        self.barrier.wait();
    }

    /// This worker's share of `0..n`: contiguous, in worker order, together exactly `0..n`.
    ///
    /// Ranges begin at multiples of `grain` (0 is taken as 1) and differ by at most one grain,
    /// except that the last may end short at `n`.
    pub fn range(&self, n: usize, grain: usize) -> Range<usize> {
        let grain = grain.max(1);
        let grains = n.div_ceil(grain);
        let (each, more) = (grains / self.count, grains % self.count);
        let first = |index: usize| {
            (index * each + index.min(more))
                .saturating_mul(grain)
                .min(n)
        };
        first(self.index)..first(self.index + 1)
    }

    /// Calls `f` with this worker's range of `0..n`, piece by piece, then with pieces of the ranges
    /// of workers that are late: a worker whose core does something else does not hold up the
    /// others for longer than a piece takes. All calls of all workers together get each of `0..n`
    /// once. Small ranges are not cut.
    ///
    /// `taken` is what workers tell each other by: one number a worker, all 0 to begin with.
    pub fn share(&self, n: usize, taken: &[AtomicUsize], mut f: impl FnMut(Range<usize>)) {
        let own = self.range(n, 1);
        // All workers must decide alike, though their ranges may differ by one.
        if n / self.count < 2 * PIECES {
            if !own.is_empty() {
                f(own);
            }
            return;
        }
        let piece = own.len() / PIECES;
        for distance in 0..self.count {
            let index = (self.index + distance) % self.count;
            let range = Worker { index, ..*self }.range(n, 1);
            loop {
                let at = taken[index].fetch_add(piece, Ordering::Relaxed);
                if at >= range.len() {
                    break;
                }
                let first = range.start + at;
                f(first..range.end.min(first + piece));
            }
        }
    }
}

/// Threads that wait for functions to run; dropping the pool ends them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Held during a run, so that runs from several threads follow each other.
    turn: Mutex<()>,
}

impl Pool {
    /// A pool of `threads` workers, of which the caller of [`Pool::run`] is one: `threads - 1`
    /// threads are started.
    ///
    /// # Errors
    /// A count outside `1..=MAX_THREADS`, or the system refusing to start a thread.
    pub fn new(threads: usize) -> Result<Pool, Error> {
        if threads == 0 || threads > MAX_THREADS {
            return Err(Error::ThreadCount {
                threads,
                max: MAX_THREADS,
            });
        }
        let mut pool = Pool {
            shared: Arc::new(Shared::new(threads)),
            threads: Vec::with_capacity(threads - 1),
            turn: Mutex::new(()),
        };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("rabitc-worker-{index}"))
                .spawn(move || shared.serve(index))
                .map_err(|source| Error::SpawnThread {
                    index,
                    threads,
                    source,
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// How many workers a run has.
    pub fn threads(&self) -> usize {
        self.shared.barrier.count()
    }

    /// Runs `task` once on every worker and returns when all have returned. What they wrote is
    /// then visible to the caller.
    ///
    /// # Errors
    /// A panic in any worker (the first one), workers that waited at the barrier a different
    /// number of times, or a call from inside a pool's function. The pool stays usable.
    pub fn run(&self, task: &Task<'_>) -> Result<(), Error> {
        if INSIDE.get() {
            return Err(Error::NestedRun);
        }
        let _turn = lock(&self.turn);
        let shared = &*self.shared;
        shared.barrier.reset();
        let finish = Finish(shared);
        // SAFETY: only the lifetime changes. The reference is used by workers of this run alone,
        // and `finish` waits for all of them, also when unwinding, before `task` can go away.
        let job = unsafe { std::mem::transmute::<&Task<'_>, &'static Task<'static>>(task) };
        shared.publish(Some(job));
        shared.execute(task, 0);
        drop(finish);
        match lock(&shared.failure).take() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.publish(None);
        for thread in self.threads.drain(..) {
            // Panics are caught inside, so there is nothing to learn from the result.
            let _ = thread.join();
        }
    }
}

/// Waits for the workers of a run when dropped, and takes the task away from them.
struct Finish<'a>(&'a Shared);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        let shared = self.0;
        shared.finish.wait_until(shared.spin, || {
            shared.running.0.load(Ordering::Acquire) == 0
        });
        *shared.job.write().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What the threads of a pool share.
struct Shared {
    barrier: Barrier,
    spin: Duration,
    /// Counts the runs; a change is the signal to start.
    epoch: OwnLine<AtomicUsize>,
    /// Workers other than the caller that have not returned yet.
    running: OwnLine<AtomicUsize>,
    job: RwLock<Option<&'static Task<'static>>>,
    failure: Mutex<Option<Error>>,
    stop: AtomicBool,
    start: WaitPoint,
    finish: WaitPoint,
}

impl Shared {
    fn new(threads: usize) -> Shared {
        Shared {
            barrier: Barrier::new(threads),
            spin: spin_time(threads, SPIN),
            epoch: OwnLine::default(),
            running: OwnLine::default(),
            job: RwLock::new(None),
            failure: Mutex::new(None),
            stop: AtomicBool::new(false),
            start: WaitPoint::default(),
            finish: WaitPoint::default(),
        }
    }

    /// Hands a job (or the news that there will be none) to the waiting threads.
    fn publish(&self, job: Option<&'static Task<'static>>) {
        if job.is_some() {
            *self.job.write().unwrap_or_else(PoisonError::into_inner) = job;
            self.running
                .0
                .store(self.barrier.count() - 1, Ordering::Relaxed);
        }
        self.epoch.0.fetch_add(1, Ordering::Release);
        self.start.wake_all();
    }

    /// The life of a worker thread.
    fn serve(&self, index: usize) {
        let mut served = 0;
        loop {
            self.start
                .wait_until(self.spin, || self.epoch.0.load(Ordering::Acquire) != served);
            // A run waits for every worker, so no epoch is ever missed.
            served = self.epoch.0.load(Ordering::Acquire);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            let job = *self.job.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(task) = job {
                self.execute(task, index);
            }
            if self.running.0.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.finish.wake_all();
            }
        }
    }

    /// Runs one worker's part; never unwinds.
    fn execute(&self, task: &Task<'_>, index: usize) {
        let worker = Worker {
            index,
            count: self.barrier.count(),
            barrier: &self.barrier,
        };
        INSIDE.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| task(worker)));
        INSIDE.set(false);
        match outcome {
            Ok(()) => self.barrier.leave(),
            Err(payload) => {
                self.record(index, payload);
                self.barrier.break_up();
            }
        }
    }

    /// Keeps the first real panic of a run. Unwinding from a broken barrier is only its echo,
    /// unless nobody panicked.
    fn record(&self, worker: usize, payload: Box<dyn Any + Send>) {
        let mut failure = lock(&self.failure);
        let echo = payload.is::<BarrierBroken>();
        match *failure {
            None if echo => *failure = Some(Error::BarrierMismatch),
            None | Some(Error::BarrierMismatch) if !echo => {
                let message = message_of(payload);
                *failure = Some(Error::WorkerPanicked { worker, message });
            }
            _ => {}
        }
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("threads", &self.barrier.count())
            .finish_non_exhaustive()
    }
}

fn message_of(payload: Box<dyn Any + Send>) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return (*text).to_owned();
    }
    match payload.downcast::<String>() {
        Ok(text) => *text,
        Err(other) => {
            // Its destructor is foreign code that may panic again, outside of any catch.
            std::mem::forget(other);
            "(a panic without a text)".to_owned()
        }
    }
}

/// Locks a mutex whose content stays sound even if a holder panicked.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
