//! Runs launches: workers share each one's items and meet between those that depend on each other.

use std::sync::atomic::AtomicUsize;

use rabitc_runtime::exec_memory::KernelFn;
use rabitc_runtime::pool::{Pool, Worker};

use super::host::Memory;
use super::program::{Base, Launch, Pointer, Work};
use crate::engine::EngineError;

/// Where memory is during a run. Everything lives longer than the run, and launches that run at
/// the same time write different parts of it.
pub struct Addresses {
    /// Of each weight.
    pub weights: Vec<*mut u8>,
    /// Of each gradient.
    pub gradients: Vec<*mut u8>,
    /// Of both moments of each.
    pub moments: Vec<[*mut u8; 2]>,
    /// Of each input.
    pub inputs: Vec<*const i32>,
    /// Of the intermediate values.
    pub arena: *mut u8,
    /// Of what a step needs for itself.
    pub scratch: *mut u8,
    /// Of known numbers.
    pub constants: *const f32,
}

impl Addresses {
    fn of(&self, pointer: Pointer) -> *mut u8 {
        let base = match pointer.base {
            Base::Weight(i) => self.weights[i],
            Base::Gradient(i) => self.gradients[i],
            Base::Moment(i, which) => self.moments[i][which],
            Base::Arena => self.arena,
            Base::Scratch => self.scratch,
            // Nothing writes through these.
            Base::Input(i) => self.inputs[i].cast::<u8>().cast_mut(),
            Base::Constants => self.constants.cast::<u8>().cast_mut(),
        };
        base.wrapping_add(pointer.offset * 4)
    }
}

/// Memory at the addresses of a run.
struct Reader<'a>(&'a Addresses);

impl Memory for Reader<'_> {
    fn floats(&self, at: Pointer, n: usize) -> &[f32] {
        // SAFETY: plans give lengths of values that they place, all of them f32 or i32 and aligned
        // to four bytes; what a launch reads, no launch beside it writes.
        unsafe { std::slice::from_raw_parts(self.0.of(at).cast(), n) }
    }

    fn ints(&self, at: Pointer, n: usize) -> &[i32] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts(self.0.of(at).cast(), n) }
    }
}

/// A launch with its addresses.
enum Ready<'a> {
    Kernel {
        entry: KernelFn,
        pointers: Vec<*mut u8>,
        scalars: &'a [i64],
    },
    Product(&'a super::product::Product, [*mut u8; 3]),
    Host(&'a super::host::Host),
}

/// All launches of a run.
struct Run<'a> {
    launches: Vec<(Ready<'a>, &'a Launch)>,
    addresses: &'a Addresses,
    taken: Vec<AtomicUsize>,
}

// SAFETY: addresses are numbers; what is done with them is decided in `Run::call`, whose items
// write disjoint parts of memory.
unsafe impl Sync for Run<'_> {}

/// Runs `launches` in order. `entries` are the kernels' by number.
///
/// # Safety
/// Every pointer of every launch must lie, with what the launch reads and writes from there on,
/// within the memory that `addresses` has for its base, and nobody else may touch that meanwhile.
/// Indices that kernels read must have been checked.
pub unsafe fn run(
    pool: &Pool,
    launches: &[Launch],
    entries: &[KernelFn],
    addresses: &Addresses,
) -> Result<(), EngineError> {
    let ready = launches.iter().map(|launch| {
        let ready = match &launch.work {
            Work::Kernel {
                spec,
                pointers,
                scalars,
            } => Ready::Kernel {
                entry: entries[*spec],
                pointers: pointers.iter().map(|p| addresses.of(*p)).collect(),
                scalars,
            },
            Work::Product(product) => {
                let places = [product.a.at, product.b.at, product.c.at];
                Ready::Product(product, places.map(|p| addresses.of(p)))
            }
            Work::Host(host) => Ready::Host(host),
        };
        (ready, launch)
    });
    let run = Run {
        launches: ready.collect(),
        addresses,
        taken: (0..launches.len() * pool.threads())
            .map(|_| AtomicUsize::new(0))
            .collect(),
    };
    let run = &run;
    pool.run(&|worker: Worker<'_>| {
        for (i, (ready, launch)) in run.launches.iter().enumerate() {
            if i > 0 && !launch.beside {
                worker.wait();
            }
            let taken = &run.taken[i * worker.count..][..worker.count];
            worker.share(launch.items, taken, |range| run.call(ready, range, &worker));
        }
    })?;
    Ok(())
}

impl Run<'_> {
    /// Computes some items of a launch. Results do not depend on who computes them.
    fn call(&self, ready: &Ready<'_>, range: std::ops::Range<usize>, worker: &Worker<'_>) {
        match ready {
            Ready::Kernel {
                entry,
                pointers,
                scalars,
            } => {
                let (begin, end) = (range.start as i64, range.end as i64);
                let (pointers, scalars) = (pointers.as_ptr(), scalars.as_ptr());
                // SAFETY: the kernel was compiled for this machine, its operands are what the
                // caller of `run` vouches for, and no other worker has these items.
                unsafe { entry(pointers, scalars, begin, end, worker.index as i64) };
            }
            Ready::Product(product, places) => {
                // SAFETY: as above.
                range.for_each(|tile| unsafe { product.run(tile, *places) });
            }
            Ready::Host(host) => {
                let (to, numbers) = host.run(&Reader(self.addresses), range);
                let to = self.addresses.of(to).cast::<f32>();
                // SAFETY: as above; the numbers are those of this worker's items alone.
                unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr(), to, numbers.len()) };
            }
        }
    }
}
