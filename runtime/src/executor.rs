//! Walks a program's steps: resolves arguments once, then calls kernels with nothing allocated.

use rabitc_rbx::{Arg, Host, Items, Program, Scalar, Work};

use crate::error::Error;
use crate::exec_memory::KernelFn;
use crate::kv_cache::KvCache;
use crate::model::Model;
use crate::pool::{Pool, Worker};
use crate::step_clock::StepClock;

use std::ops::Range;
use std::sync::atomic::AtomicUsize;

/// A program with every pointer resolved against one session's memory.
pub(crate) struct Executor {
    steps: Vec<ReadyStep>,
    pointers: Vec<Address>,
    scalars: Vec<Scalar>,
    values: Vec<i64>,
    /// For every step and worker: how many items of that worker's range have been taken.
    taken: Vec<AtomicUsize>,
}

/// An address that workers share.
#[derive(Clone, Copy)]
struct Address(*mut u8);

// SAFETY: an address is a number; what may be done with it is decided where it is used, in
// `Executor::run`, whose steps write disjoint parts of what they share.
unsafe impl Sync for Address {}
// SAFETY: as above.
unsafe impl Send for Address {}

struct ReadyStep {
    phase: usize,
    items: Items,
    work: ReadyWork,
}

enum ReadyWork {
    Kernel {
        entry: KernelFn,
        first_pointer: usize,
        first_scalar: usize,
    },
    RopeTable {
        inv_freq: Vec<f32>,
        attention_factor: f32,
        out: Address,
    },
}

/// The memory that a program's arguments point into. All of it outlives the executor: a session
/// owns both and drops them together.
pub(crate) struct Memory<'a> {
    pub model: &'a Model,
    pub arena: *mut u8,
    pub ids: *mut u8,
    pub rows: *mut u8,
    pub cache: &'a mut KvCache,
}

/// The sizes of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Extent {
    pub tokens: usize,
    pub rows: usize,
    pub start: usize,
    pub capacity: usize,
}

impl Executor {
    /// Resolves every argument of `program`.
    pub fn new(program: &Program, memory: &mut Memory<'_>) -> Result<Executor, Error> {
        let mut executor = Executor {
            steps: Vec::with_capacity(program.steps.len()),
            pointers: Vec::new(),
            scalars: Vec::new(),
            values: Vec::new(),
            taken: Vec::new(),
        };
        for step in &program.steps {
            let (work, items) = executor.resolve(&step.work, memory)?;
            executor.steps.push(ReadyStep {
                phase: step.phase,
                items,
                work,
            });
        }
        executor.values = vec![0; executor.scalars.len()];
        Ok(executor)
    }

    /// The work of a step with its pointers, and how many items it has.
    fn resolve(
        &mut self,
        work: &Work,
        memory: &mut Memory<'_>,
    ) -> Result<(ReadyWork, Items), Error> {
        match work {
            Work::Host(Host::RopeTable {
                inv_freq,
                attention_factor,
                out,
            }) => {
                let work = ReadyWork::RopeTable {
                    inv_freq: inv_freq.clone(),
                    attention_factor: *attention_factor,
                    out: memory.resolve(out)?,
                };
                let per_token = Items {
                    per_token: 1,
                    ..Items::default()
                };
                Ok((work, per_token))
            }
            Work::Kernel {
                kernel,
                args,
                scalars,
                items,
            } => {
                let work = ReadyWork::Kernel {
                    entry: memory.model.kernels()[*kernel],
                    first_pointer: self.pointers.len(),
                    first_scalar: self.scalars.len(),
                };
                for arg in args {
                    self.pointers.push(memory.resolve(arg)?);
                }
                self.scalars.extend(scalars.iter().cloned());
                Ok((work, *items))
            }
        }
    }

    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Runs the whole program, or only the steps in `only`; with a clock, worker 0 takes times.
    pub fn run(
        &mut self,
        pool: &Pool,
        extent: Extent,
        only: Range<usize>,
        clock: Option<&StepClock>,
    ) -> Result<(), Error> {
        for (value, scalar) in self.values.iter_mut().zip(&self.scalars) {
            *value = match scalar {
                Scalar::Const(n) => *n,
                Scalar::Tokens => extent.tokens as i64,
                Scalar::Rows => extent.rows as i64,
                Scalar::Start => extent.start as i64,
                Scalar::Capacity => extent.capacity as i64,
            };
        }
        self.taken
            .resize_with(self.steps.len() * pool.threads(), AtomicUsize::default);
        self.taken.iter_mut().for_each(|n| *n.get_mut() = 0);
        let this = &*self;
        pool.run(&|worker: Worker<'_>| {
            let clock = clock.filter(|_| worker.index == 0);
            let mut phase = None;
            for index in only.clone() {
                let step = &this.steps[index];
                let meets = phase.is_some_and(|p| p != step.phase);
                phase = Some(step.phase);
                match clock {
                    None => {
                        if meets {
                            worker.wait();
                        }
                        this.share(index, &worker, extent);
                    }
                    Some(clock) => {
                        if meets {
                            clock.wait(|| worker.wait());
                        }
                        clock.step(index, || this.share(index, &worker, extent));
                    }
                }
            }
        })
    }

    /// This worker's share of a step. Results do not depend on who computes them.
    fn share(&self, step: usize, worker: &Worker<'_>, extent: Extent) {
        let items = self.steps[step].items;
        let items = items.count(extent.tokens, extent.rows) as usize;
        let taken = &self.taken[step * worker.count..][..worker.count];
        worker.share(items, taken, |range| {
            self.call(step, range, worker, extent);
        });
    }

    /// Computes some items of a step.
    fn call(&self, step: usize, range: Range<usize>, worker: &Worker<'_>, extent: Extent) {
        match &self.steps[step].work {
            ReadyWork::Kernel {
                entry,
                first_pointer,
                first_scalar,
            } => {
                let pointers = self.pointers[*first_pointer..].as_ptr().cast::<*mut u8>();
                let scalars = self.values[*first_scalar..].as_ptr();
                let (begin, end) = (range.start as i64, range.end as i64);
                // SAFETY: the kernel comes from the artifact whose manifest names these
                // arguments, both covered by hashes; every pointer was resolved against memory
                // of this session of the size the plan asks for, `extent` is within the
                // program's limits, and steps of one phase write disjoint memory.
                unsafe { entry(pointers, scalars, begin, end, worker.index as i64) };
            }
            ReadyWork::RopeTable {
                inv_freq,
                attention_factor,
                out,
            } => {
                let half = inv_freq.len();
                for token in range {
                    // SAFETY: the plan reserves 2·half floats a token there, `token` is below
                    // the program's limit, and no other worker has this token.
                    let row = unsafe {
                        let first = out.0.cast::<f32>().add(token * 2 * half);
                        std::slice::from_raw_parts_mut(first, 2 * half)
                    };
                    let position = (extent.start + token) as f32;
                    rope_row(position, inv_freq, *attention_factor, row);
                }
            }
        }
    }
}

/// cos in the first half of `row`, sin in the second.
fn rope_row(position: f32, inv_freq: &[f32], factor: f32, row: &mut [f32]) {
    let (cos, sin) = row.split_at_mut(inv_freq.len());
    for ((cos, sin), f) in cos.iter_mut().zip(sin).zip(inv_freq) {
        let angle = position * f;
        *cos = angle.cos() * factor;
        *sin = angle.sin() * factor;
    }
}

impl Memory<'_> {
    fn resolve(&mut self, arg: &Arg) -> Result<Address, Error> {
        let no_layer = |layer: &usize| Error::Plan {
            reason: format!("refers to the cache of layer {layer}, which does not exist"),
        };
        Ok(Address(match arg {
            // The reader checked the offset against the arena's size.
            Arg::Arena(offset) => self.arena.wrapping_add(*offset),
            // Kernels never write through weights.
            Arg::Weight(name) => self.model.artifact().bytes(name)?.as_ptr().cast_mut(),
            Arg::Keys(layer) => self.cache.layer(*layer).ok_or_else(|| no_layer(layer))?.k,
            Arg::Values(layer) => self.cache.layer(*layer).ok_or_else(|| no_layer(layer))?.v,
            Arg::Ids => self.ids,
            Arg::Rows => self.rows,
        }))
    }
}
