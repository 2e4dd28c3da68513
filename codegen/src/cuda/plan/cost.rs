//! How long a product of few tokens takes, estimated without a GPU.
//!
//! Such a product is a short kernel in a chain of dependent ones: it waits for the kernel ahead,
//! reads its small input, prepares it, streams its signs past the matrix units, and puts the sums of
//! the blocks that share rows together. What it asks for before the kernel ahead has ended arrives
//! during the wait. So
//!
//! ```text
//! time = chain + input + max(prepare + matrix, stream − chain) + exchange
//! ```
//!
//! - `stream`: bytes over the bandwidth that the blocks reach. All of them together reach no more
//!   than the memory has, a multiprocessor no more than its share of the paths to it, and a block no
//!   more than what it has under way over the latency (Little's law).
//! - `prepare`: instructions of the busiest warp at the rate at which a scheduler issues them.
//! - `matrix`: instructions of the busiest scheduler's matrix unit.
//! - Where the blocks do not fit onto the card at once, everything but `chain` happens once a wave.
//!
//! The figures of a [`Card`] are those of its data sheet, and times that stand in a chain of kernels
//! as they were measured on an H200. They rank ways to cut one product; they do not predict models.

use rabitc_rbx::SmArch;

/// What a launch asks of a card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Blocks.
    pub blocks: usize,
    /// Blocks of a cluster.
    pub cluster: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Bytes that the busiest block reads from memory.
    pub bytes: usize,
    /// Bytes that a block has under way at a time.
    pub in_flight: usize,
    /// Instructions of the busiest warp before the matrix instructions.
    pub prepare: usize,
    /// Matrix instructions of the busiest scheduler of a block.
    pub matrix: usize,
}

/// What a card has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Card {
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Bytes a second that its memory delivers.
    pub bandwidth: f64,
    /// Cycles a second.
    pub clock: f64,
    /// Bytes of shared memory of a multiprocessor.
    pub shared: usize,
    /// Threads that a multiprocessor holds.
    pub threads: usize,
    /// Cycles that a matrix unit is busy with a binary instruction of 16 × 8 × 256.
    pub matrix_cycles: f64,
}

/// Seconds from the end of one kernel of a chain to the first instruction of the next.
const CHAIN: f64 = 1.1e-6;
/// Seconds until an input that was just written is in registers.
const INPUT: f64 = 0.8e-6;
/// Seconds in which the blocks of a cluster put their sums together.
const EXCHANGE: f64 = 0.8e-6;
/// Seconds that a read from memory under load takes.
const LATENCY: f64 = 0.9e-6;
/// Share of the multiprocessors that saturates the memory.
const SATURATION: f64 = 0.7;
/// Cycles from one instruction of a warp to the next, in code where few warps share a scheduler.
const ISSUE: f64 = 2.5;
/// Bytes of shared memory that the system takes of every block.
const RESERVED: usize = 1 << 10;
/// Blocks that a multiprocessor holds at most, whatever they need.
const MOST_BLOCKS: usize = 32;

impl Card {
    /// A typical card of an architecture: the one that data centres have.
    pub fn of(arch: SmArch) -> Card {
        let (multiprocessors, bandwidth, clock, threads) = match arch.number() {
            80 | 87 => (108, 1.55e12, 1.41e9, 2048),
            81..=89 => (142, 0.86e12, 2.2e9, 1536),
            90 => (132, 4.0e12, 1.7e9, 2048),
            120.. => (170, 1.79e12, 2.4e9, 1536),
            _ => (148, 7.7e12, 1.85e9, 2048),
        };
        Card {
            multiprocessors,
            bandwidth,
            clock,
            threads,
            shared: arch.shared_bytes() + RESERVED,
            matrix_cycles: 7.0,
        }
    }

    /// Blocks of `work` that a multiprocessor holds, at least 1.
    fn blocks_each(&self, work: &Work) -> usize {
        let by_shared = self.shared / (work.shared + RESERVED);
        let by_threads = self.threads / work.threads.max(1);
        by_shared.min(by_threads).clamp(1, MOST_BLOCKS)
    }

    /// Seconds that a launch takes in a chain of launches.
    pub fn seconds(&self, work: &Work) -> f64 {
        let each = self.blocks_each(work);
        // A cluster needs its blocks at once.
        let cluster = work.cluster.max(1);
        let at_once = (self.multiprocessors * each / cluster * cluster).max(1);
        let waves = work.blocks.div_ceil(at_once).max(1);
        let resident = work.blocks.min(at_once).max(1);
        let shared_by = resident.div_ceil(self.multiprocessors) as f64;

        let paths = self.bandwidth / (SATURATION * self.multiprocessors as f64) / shared_by;
        let block = (self.bandwidth / resident as f64)
            .min(paths)
            .min(work.in_flight as f64 / LATENCY);
        let stream = work.bytes as f64 / block;
        let prepare = work.prepare as f64 * ISSUE / self.clock;
        let matrix = work.matrix as f64 * self.matrix_cycles * shared_by / self.clock;
        let exchange = if cluster > 1 { EXCHANGE } else { 0.0 };
        let compute = prepare + matrix;
        let first = INPUT + compute.max(stream - CHAIN) + exchange;
        let later = INPUT + compute.max(stream) + exchange;
        CHAIN + first + (waves - 1) as f64 * later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card::of("sm_90".parse().unwrap())
    }

    fn work() -> Work {
        Work {
            blocks: 128,
            cluster: 8,
            threads: 512,
            shared: 100 << 10,
            bytes: 98_304,
            in_flight: 65_536,
            prepare: 400,
            matrix: 100,
        }
    }

    fn time(change: impl Fn(&mut Work)) -> f64 {
        let mut work = work();
        change(&mut work);
        card().seconds(&work)
    }

    #[test]
    fn more_of_anything_takes_no_less_time() {
        let least = time(|_| {});
        for more in [
            time(|w| w.bytes *= 8),
            time(|w| w.prepare *= 10),
            time(|w| w.matrix *= 20),
            time(|w| w.in_flight /= 64),
            time(|w| w.blocks *= 3),
        ] {
            assert!(more > least, "{more} {least}");
        }
        assert!(time(|w| w.cluster = 1) < least);
    }

    #[test]
    fn memory_bounds_a_large_product() {
        // A hundred times the bytes, well under way: the memory's time, and little else.
        let large = time(|w| (w.bytes, w.in_flight) = (w.bytes * 100, 200 << 10));
        let floor = 98_304.0 * 100.0 * 128.0 / card().bandwidth;
        assert!((floor..floor * 1.05).contains(&large), "{large} {floor}");
    }

    #[test]
    fn a_second_wave_costs_its_whole_time() {
        // Shared memory lets one block onto a multiprocessor: 132 fit, in clusters of 8 128.
        let one = time(|w| w.shared = 200 << 10);
        let two = time(|w| (w.shared, w.blocks) = (200 << 10, 136));
        assert!(two > one + INPUT + EXCHANGE, "{two} {one}");
        let both = time(|w| (w.shared, w.blocks) = (100 << 10, 256));
        assert!(both < two, "{both} {two}");
    }

    #[test]
    fn few_blocks_do_not_fill_the_memory() {
        let all = time(|w| (w.bytes, w.in_flight) = (4 << 20, 200 << 10));
        let few = time(|w| (w.blocks, w.bytes, w.in_flight) = (32, 16 << 20, 200 << 10));
        assert!(few > 2.0 * all, "{few} {all}");
    }
}
