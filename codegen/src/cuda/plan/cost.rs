//! How long a product of few tokens takes, estimated without a GPU.
//!
//! Such a product is a short kernel in a chain of dependent ones: it waits for the kernel ahead,
//! reads its small input and prepares it, streams its signs past the matrix units, and finishes the
//! rows. What it asks for before the kernel ahead has ended arrives during the wait, if the card has
//! room for its blocks beside those of the kernel ahead; if not, the chain loses some time. So a launch
//! takes
//!
//! ```text
//! max(CHAIN + INPUT + prepare + max(matrix, rest), all) + finish
//! ```
//!
//! or, if it finds no room itself before the kernel ahead has ended, the sum of both sides.
//!
//! - `all`: a block's bytes over its share of the bandwidth. `rest`: those of them that it does not
//!   ask for at once, no faster than what is under way over the latency (Little's law).
//! - `prepare`: units of 256 inputs that the busiest warp quantises one after the other, each in the
//!   time of a warp alone, or in its turn among the warps of its scheduler.
//! - `matrix`: instructions of the busiest scheduler's matrix unit, or the row tiles that a warp counts
//!   one after the other, each no faster than its steps follow from each other.
//! - `finish`: results that the busiest thread finishes, and the meeting of a cluster.
//!
//! INPUT includes what all blocks read of the input at the same moment, from the L2 cache.
//!
//! Where the blocks do not fit onto the card at once, all of it happens once a wave. Clusters are
//! placed whole within a group of multiprocessors, so some of those stay empty.
//!
//! The figures of a [`Card`] are those of its data sheet. The constants here and those of a kernel's
//! [`Kind`] follow times of many ways to cut the products of a 7 B model on an H200, as `rabitc tune`
//! measures them: they rank the ways to cut a product, and do not predict models.

use rabitc_rbx::SmArch;

/// What the parts of a kernel of one kind take, measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kind {
    /// Seconds in which a warp alone quantises a unit of 256 inputs.
    pub unit: f64,
    /// Seconds of a unit that a scheduler is busy.
    pub turn: f64,
    /// Seconds in which the blocks of a cluster hand each other their sums.
    pub exchange: f64,
    /// Seconds in which a thread finishes a result.
    pub item: f64,
}

/// Whether blocks of successive kernels run side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// These find room beside those of the kernel ahead, and the next kernel's beside these.
    Beside,
    /// The next kernel's find none, or not everywhere.
    Crowded,
    /// These find none before the kernel ahead has ended.
    Apart,
}

/// What a launch asks of a card.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// The kernel's kind.
    pub kind: Kind,
    /// Whether its blocks run beside those of its neighbours.
    pub room: Room,
    /// Blocks.
    pub blocks: usize,
    /// Blocks of a cluster.
    pub cluster: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Registers of a thread at most.
    pub registers: usize,
    /// Bytes of shared memory of a block.
    pub shared: usize,
    /// Bytes that the busiest block reads from memory.
    pub bytes: usize,
    /// Bytes of them that a block has under way at a time, from before the kernel ahead has ended.
    pub in_flight: usize,
    /// Bytes of the input that a block reads.
    pub inputs: usize,
    /// Units of 256 inputs that the busiest warp quantises.
    pub units: usize,
    /// Row tiles that a warp counts one after the other.
    pub tiles: usize,
    /// Matrix instructions of the busiest scheduler of a block.
    pub matrix: usize,
    /// Results that the busiest thread finishes.
    pub items: usize,
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
}

/// Schedulers of a multiprocessor.
pub const SCHEDULERS: usize = 4;
/// Seconds from the end of one kernel of a chain to the first instruction of the next.
const CHAIN: f64 = 0.2e-6;
/// Seconds until an input that was just written is in registers, and whatever else every launch
/// takes.
const INPUT: f64 = 1.1e-6;
/// Bytes a second that the L2 cache delivers.
const CACHE_BANDWIDTH: f64 = 5.5e12;
/// Cycles from a row tile's signs to its sums.
const TILE: f64 = 115.0;
/// Cycles that a matrix unit is busy with a binary instruction of 16 × 8 × 256 and what feeds it.
const MATRIX: f64 = 14.0;
/// Seconds that a chain loses with a kernel that leaves no room for the next one's blocks.
const CROWDED: f64 = 0.8e-6;
/// Seconds that a read from memory under load takes.
const LATENCY: f64 = 0.5e-6;
/// Share of the multiprocessors that stays empty where clusters are large.
const FRAGMENTS: f64 = 0.08;
/// Bytes of shared memory that the system takes of every block.
pub(super) const RESERVED: usize = 1 << 10;
/// Blocks that a multiprocessor holds at most, whatever they need.
const MOST_BLOCKS: usize = 32;
/// Registers of a multiprocessor.
const REGISTERS: usize = 1 << 16;

impl Card {
    /// A typical card of an architecture: the one that data centres have.
    pub fn of(arch: SmArch) -> Card {
        let (multiprocessors, bandwidth, clock, threads) = match arch.number() {
            80 | 87 => (108, 1.55e12, 1.41e9, 2048),
            81..=89 => (142, 0.86e12, 2.2e9, 1536),
            90 => (132, 4.4e12, 1.7e9, 2048),
            120.. => (170, 1.79e12, 2.4e9, 1536),
            _ => (148, 7.7e12, 1.85e9, 2048),
        };
        Card {
            multiprocessors,
            bandwidth,
            clock,
            threads,
            shared: arch.shared_bytes() + RESERVED,
        }
    }

    /// Blocks of `work` that a multiprocessor holds, at least 1.
    fn blocks_each(&self, work: &Work) -> usize {
        let threads = work.threads.max(1);
        let by_shared = self.shared / (work.shared + RESERVED);
        let by_registers = REGISTERS / (threads * work.registers.max(1));
        let by_threads = self.threads / threads;
        by_shared
            .min(by_threads)
            .min(by_registers)
            .clamp(1, MOST_BLOCKS)
    }

    /// Blocks of `work` that the card holds at once, a whole number of clusters.
    fn blocks_at_once(&self, work: &Work) -> usize {
        let cluster = work.cluster.max(1);
        // Multiprocessors come in pairs.
        let usable = 1.0 - FRAGMENTS * (1.0 - 2.0 / cluster.max(2) as f64);
        let all = (self.multiprocessors * self.blocks_each(work)) as f64 * usable;
        (all as usize / cluster).max(1) * cluster
    }

    /// Seconds that a launch takes in a chain of launches.
    pub fn seconds(&self, work: &Work) -> f64 {
        let at_once = self.blocks_at_once(work);
        let waves = work.blocks.div_ceil(at_once).max(1);
        let resident = work.blocks.min(at_once).max(1);
        let each = resident.div_ceil(self.multiprocessors);

        let share = self.bandwidth / (self.multiprocessors * each) as f64;
        let all = work.bytes as f64 / share + LATENCY;
        let streaming = share.min(work.in_flight as f64 / LATENCY);
        let rest = match work.bytes.saturating_sub(work.in_flight) {
            0 => 0.0,
            bytes => bytes as f64 / streaming.max(1.0) + LATENCY,
        };
        let turns = work.threads.div_ceil(32 * SCHEDULERS) * each;
        let prepare = work.units as f64 * work.kind.unit.max(work.kind.turn * turns as f64);
        let in_turn = (work.tiles as f64 * TILE).max((work.matrix * each) as f64 * MATRIX);
        let matrix = in_turn / self.clock;
        let input = INPUT + (work.inputs * resident) as f64 / CACHE_BANDWIDTH;
        let own = input + prepare + matrix.max(rest);
        let meeting = if work.cluster > 1 {
            work.kind.exchange
        } else {
            0.0
        };
        let finish = meeting + work.items as f64 * work.kind.item;

        let first = match work.room {
            Room::Beside => (CHAIN + own).max(all),
            Room::Crowded => CHAIN + own.max(all) + CROWDED,
            Room::Apart => CHAIN + own + all,
        };
        first + finish + (waves - 1) as f64 * (own.max(all) + finish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card::of("sm_90".parse().unwrap())
    }

    const KIND: Kind = Kind {
        unit: 1e-6,
        turn: 0.3e-6,
        exchange: 0.1e-6,
        item: 1e-6,
    };

    fn work() -> Work {
        Work {
            kind: KIND,
            room: Room::Beside,
            blocks: 120,
            cluster: 8,
            threads: 256,
            registers: 64,
            shared: 100 << 10,
            bytes: 98_304,
            in_flight: 81_920,
            inputs: 8192,
            units: 1,
            tiles: 10,
            matrix: 100,
            items: 1,
        }
    }

    fn time(change: impl Fn(&mut Work)) -> f64 {
        let mut work = work();
        change(&mut work);
        card().seconds(&work)
    }

    #[test]
    fn more_of_anything_takes_more_time() {
        let least = time(|_| {});
        for more in [
            time(|w| w.bytes *= 8),
            time(|w| w.units += 1),
            time(|w| w.items += 1),
            time(|w| w.matrix *= 20),
            time(|w| w.tiles *= 2),
            time(|w| w.inputs *= 2),
            time(|w| w.in_flight /= 64),
            time(|w| w.blocks *= 5),
            time(|w| w.room = Room::Crowded),
        ] {
            assert!(more > least, "{more} {least}");
        }
        assert!(time(|w| w.cluster = 1) < least);
        assert!(time(|w| w.room = Room::Apart) > time(|w| w.room = Room::Crowded));
    }

    #[test]
    fn memory_bounds_a_large_product() {
        // A hundred times the bytes, well under way: the memory's time, and little else.
        let large = time(|w| (w.bytes, w.blocks) = (w.bytes * 100, 132));
        let floor = 98_304.0 * 100.0 * 132.0 / card().bandwidth;
        assert!(
            (floor * 0.99..floor * 1.1).contains(&large),
            "{large} {floor}"
        );
    }

    #[test]
    fn clusters_leave_multiprocessors_empty_and_a_second_wave_costs_its_whole_time() {
        // Shared memory lets one block onto a multiprocessor.
        let of = |cluster, blocks| {
            let shared = 200 << 10;
            time(|w| (w.shared, w.cluster, w.blocks, w.inputs) = (shared, cluster, blocks, 0))
        };
        assert!(of(8, 128) > of(8, 120) + INPUT, "15 clusters of 8 fit");
        assert!(of(1, 133) > of(1, 132) + INPUT, "132 single blocks fit");
        assert_eq!(of(1, 132), of(1, 120));
        let two_each = time(|w| (w.shared, w.blocks, w.inputs) = (100 << 10, 240, 0));
        assert!(two_each < of(8, 240));
    }

    #[test]
    fn registers_bound_the_blocks_too() {
        let few = time(|w| (w.threads, w.blocks) = (512, 240));
        let many = time(|w| (w.threads, w.blocks, w.registers) = (512, 240, 128));
        assert!(many > few, "{many} {few}");
    }
}
