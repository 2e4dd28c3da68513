//! What plain code computes: a few numbers a step, sums of losses in f64, and angles.

use std::ops::Range;

use rabitc_ir::ops::sample;
use rabitc_ir::ops::squared_error::Normalize;

use super::program::Pointer;

/// One such computation; one work item unless it says otherwise.
#[derive(Clone, Debug)]
pub enum Host {
    /// `to = factor · Σ rows`.
    Sum {
        /// Losses of rows.
        rows: Pointer,
        /// How many.
        n: usize,
        /// Factor on their sum.
        factor: f64,
        /// One number.
        to: Pointer,
    },
    /// `to = factor · from`.
    Scale {
        /// One number.
        from: Pointer,
        /// Factor on it.
        factor: f64,
        /// One number.
        to: Pointer,
    },
    /// `to = Σ rows / number of labels that are not negative`.
    MeanOfLabelled {
        /// Losses of rows.
        rows: Pointer,
        /// Their labels.
        labels: Pointer,
        /// How many.
        n: usize,
        /// One number.
        to: Pointer,
    },
    /// `to = from / number of labels that are not negative`.
    ShareOfLabelled {
        /// One number.
        from: Pointer,
        /// Labels.
        labels: Pointer,
        /// How many.
        n: usize,
        /// One number.
        to: Pointer,
    },
    /// `to = Σ ‖x − t‖² / divisor`.
    SquaredError {
        /// The divisor.
        by: Divisor,
        /// One number.
        to: Pointer,
    },
    /// `to[row] = 2 dloss / divisor`.
    SquaredErrorFactors {
        /// The divisor.
        by: Divisor,
        /// One number.
        dloss: Pointer,
        /// One number a row.
        to: Pointer,
    },
    /// Cosines and sines of position · frequency, rows of both halves; items: rows.
    RopeTable {
        /// Positions.
        positions: Pointer,
        /// Frequencies.
        inv_freq: Pointer,
        /// How many.
        half: usize,
        /// Rows.
        rows: usize,
        /// Factor on cosines and sines.
        factor: f32,
        /// `[rows, 2 half]`.
        to: Pointer,
    },
    /// Classes drawn from logits, as the op `sample` defines it; items: rows.
    Sample {
        /// The logits, `stride` from one row to the next.
        logits: Pointer,
        /// Elements from one row to the next.
        stride: usize,
        /// Logits a row.
        columns: usize,
        /// One integer a row.
        draws: Pointer,
        /// Rows.
        rows: usize,
        /// One integer a row.
        to: Pointer,
    },
}

/// What the squared distances of rows are divided by.
#[derive(Clone, Copy, Debug)]
pub struct Divisor {
    /// How it is normalised.
    pub normalize: Normalize,
    /// ‖x − t‖² and ‖t‖² of every row.
    pub rows: Pointer,
    /// Rows.
    pub n: usize,
    /// Elements a row.
    pub d: usize,
}

impl Divisor {
    /// The divisor of every row from `[rows, 2]` statistics; one of 0 counts as 1.
    fn of<'a>(&self, rows: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        let (normalize, n) = (self.normalize, self.n as f64);
        let elements = n * self.d as f64;
        let energies = || rows.chunks_exact(2).map(|row| f64::from(row[1]));
        let total: f64 = energies().sum();
        energies().map(move |energy| {
            let divisor = match normalize {
                Normalize::Elements => elements,
                Normalize::Target => total,
                Normalize::Rows => energy * n,
            };
            if divisor == 0.0 { 1.0 } else { divisor }
        })
    }
}

/// Memory as host code reads it.
pub trait Memory {
    /// `n` floats.
    fn floats(&self, at: Pointer, n: usize) -> &[f32];
    /// `n` integers.
    fn ints(&self, at: Pointer, n: usize) -> &[i32];
}

impl Host {
    /// Work items.
    pub fn items(&self) -> usize {
        match self {
            Host::RopeTable { rows, .. } | Host::Sample { rows, .. } => *rows,
            _ => 1,
        }
    }

    /// Computes the items `range`: numbers, and where they are to be stored. Integers come as the
    /// floats of their bits.
    pub fn run(&self, memory: &dyn Memory, range: Range<usize>) -> (Pointer, Vec<f32>) {
        let number = |at: &Pointer| f64::from(memory.floats(*at, 1)[0]);
        let one = |to: &Pointer, x: f64| (*to, vec![x as f32]);
        let sum = |at: &Pointer, n: usize| -> f64 {
            memory.floats(*at, n).iter().map(|x| f64::from(*x)).sum()
        };
        let labelled = |at: &Pointer, n: usize| {
            let labels = memory.ints(*at, n).iter();
            labels.filter(|label| **label >= 0).count().max(1) as f64
        };
        match self {
            Host::Sum {
                rows,
                n,
                factor,
                to,
            } => one(to, factor * sum(rows, *n)),
            Host::Scale { from, factor, to } => one(to, factor * number(from)),
            Host::MeanOfLabelled {
                rows,
                labels,
                n,
                to,
            } => one(to, sum(rows, *n) / labelled(labels, *n)),
            Host::ShareOfLabelled {
                from,
                labels,
                n,
                to,
            } => one(to, number(from) / labelled(labels, *n)),
            Host::SquaredError { by, to } => {
                let rows = memory.floats(by.rows, 2 * by.n);
                let errors = rows.chunks_exact(2).zip(by.of(rows));
                one(to, errors.map(|(row, d)| f64::from(row[0]) / d).sum())
            }
            Host::SquaredErrorFactors { by, dloss, to } => {
                let (rows, dloss) = (memory.floats(by.rows, 2 * by.n), number(dloss));
                let factors = by.of(rows).map(|divisor| (2.0 * dloss / divisor) as f32);
                (*to, factors.collect())
            }
            Host::RopeTable {
                positions,
                inv_freq,
                half,
                rows,
                factor,
                to,
            } => {
                let inv_freq = memory.floats(*inv_freq, *half);
                let positions = &memory.ints(*positions, *rows)[range.clone()];
                let to = to.plus(range.start * 2 * half);
                (to, rope_rows(positions, inv_freq, *factor))
            }
            Host::Sample {
                logits,
                stride,
                columns,
                draws,
                rows,
                to,
            } => {
                let draws = memory.ints(*draws, *rows);
                let class = |row: usize| {
                    let logits = memory.floats(logits.plus(row * stride), *columns);
                    sample::class(logits, draws[row])
                };
                let classes = range.clone().map(|row| f32::from_bits(class(row) as u32));
                (to.plus(range.start), classes.collect())
            }
        }
    }
}

/// cos in the first half of every row, sin in the second, of angles rounded to f32.
fn rope_rows(positions: &[i32], inv_freq: &[f32], factor: f32) -> Vec<f32> {
    let mut out = Vec::with_capacity(positions.len() * inv_freq.len() * 2);
    for position in positions {
        let angles = inv_freq.iter().map(|f| *position as f32 * f);
        out.extend(angles.clone().map(|angle| angle.cos() * factor));
        out.extend(angles.map(|angle| angle.sin() * factor));
    }
    out
}
