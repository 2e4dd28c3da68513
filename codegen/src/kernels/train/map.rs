//! Functions of single elements, as a plan's maps describe them.

use super::functions::{activation_slope, keep_nan, round, softcap_or_nan, softcap_slope};
use crate::kernels::elementwise::activate;
use crate::kernels::shape::{address, chunk_count, for_chunks, for_columns};
use crate::kernels::{Spec, Vectors};
use crate::kir::{Builder, Kernel, Ty, Val};
use crate::train::{Map, Store, Term, View};

/// An operand or a result.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Matrix {
    columns: usize,
    stride: usize,
}

/// A result: which term, where to, and whether it is added to what is there.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Result {
    term: usize,
    to: Matrix,
    accumulate: bool,
}

/// One map; items: rows × chunks of columns, or rows if an operand is padded.
#[derive(Clone, Debug, PartialEq)]
pub struct MapKernel {
    rows: usize,
    columns: usize,
    operands: Vec<Matrix>,
    terms: Vec<Term>,
    results: Vec<Result>,
}

/// The columns of a row that are computed alike.
struct Columns {
    /// The first, if it is known.
    start: usize,
    /// Addresses of the operands and results at the first.
    operands: Vec<Val>,
    results: Vec<Val>,
}

impl MapKernel {
    /// The kernel of a map of f32 matrices. Where all of them are dense and nothing depends on the
    /// column, they are taken as one row.
    pub fn of(map: &Map) -> Self {
        let by_column = |t: &Term| matches!(t, Term::Column { .. } | Term::Padded { .. });
        let views = map.operands.iter().chain(map.stores.iter().map(|s| &s.to));
        let flat = !map.terms.iter().any(by_column)
            && views
                .into_iter()
                .all(|v| v.is_dense() && v.columns == map.columns);
        let (rows, columns) = match flat {
            true => (1, map.rows * map.columns),
            false => (map.rows, map.columns),
        };
        let matrix = |view: &View| Matrix {
            columns: if flat { columns } else { view.columns },
            stride: if flat { columns } else { view.stride },
        };
        let result = |store: &Store| Result {
            term: store.term,
            to: matrix(&store.to),
            accumulate: store.accumulate,
        };
        MapKernel {
            rows,
            columns,
            operands: map.operands.iter().map(matrix).collect(),
            terms: map.terms.clone(),
            results: map.stores.iter().map(result).collect(),
        }
    }

    /// Work items.
    pub fn items(&self) -> usize {
        match self.is_padded() {
            true => self.rows,
            false => self.rows * chunk_count(self.columns),
        }
    }

    fn is_padded(&self) -> bool {
        self.terms.iter().any(|t| matches!(t, Term::Padded { .. }))
    }

    /// Where padding begins or ends, the ends of the row included.
    fn cuts(&self) -> Vec<usize> {
        let mut cuts = vec![0, self.columns];
        for term in &self.terms {
            if let Term::Padded { operand, start } = term {
                cuts.extend([*start, start + self.operands[*operand].columns]);
            }
        }
        cuts.sort();
        cuts.dedup();
        cuts
    }
}

impl Spec for MapKernel {
    fn name(&self) -> String {
        let mut name = format!("map_d{}", self.columns);
        for operand in &self.operands {
            name += &format!("_o{}x{}", operand.columns, operand.stride);
        }
        for term in &self.terms {
            name += &format!("_{}", term_name(term));
        }
        for result in &self.results {
            let way = if result.accumulate { "i" } else { "w" };
            name += &format!("_{way}{}x{}", result.term, result.to.stride);
        }
        name
    }

    fn build(&self, vectors: Vectors) -> Kernel {
        let mut b = Builder::new(&self.name(), vectors.bytes);
        let operands = (0..self.operands.len()).map(|i| b.input(&format!("x{i}")));
        let operands: Vec<Val> = operands.collect();
        let results = (0..self.results.len()).map(|i| b.output(&format!("y{i}")));
        let results: Vec<Val> = results.collect();
        if self.is_padded() {
            let (begin, end) = b.range();
            b.for_range(begin, end, 1, |b, row| {
                for cut in self.cuts().windows(2) {
                    let first = b.int(cut[0] as i64);
                    let columns = self.columns_at(b, (&operands, &results), row, first, cut[0]);
                    self.segment(b, &columns, (cut[1] - cut[0]) as i64);
                }
            });
        } else {
            for_chunks(&mut b, self.columns as i64, &mut |b, row, first, n| {
                let columns = self.columns_at(b, (&operands, &results), row, first, 0);
                self.segment(b, &columns, n);
            });
        }
        b.finish()
    }
}

impl MapKernel {
    fn columns_at(
        &self,
        b: &mut Builder,
        (operands, results): (&[Val], &[Val]),
        row: Val,
        first: Val,
        start: usize,
    ) -> Columns {
        let row_free = |i: usize| {
            let mut reads = self.terms.iter();
            reads.any(|t| matches!(t, Term::Column { operand } if *operand == i))
        };
        let mut at = |base: Val, i: Option<usize>, stride: usize| match i {
            Some(i) if row_free(i) => b.at(base, first, 4),
            _ => address(b, base, row, stride as i64, first),
        };
        let reads = operands.iter().zip(&self.operands).enumerate();
        let writes = results.iter().zip(&self.results);
        Columns {
            start,
            operands: reads
                .map(|(i, (base, m))| at(*base, Some(i), m.stride))
                .collect(),
            results: writes
                .map(|(base, r)| at(*base, None, r.to.stride))
                .collect(),
        }
    }

    /// `n` columns that are computed alike.
    fn segment(&self, b: &mut Builder, columns: &Columns, n: i64) {
        for_columns(b, n, &mut |b, column, ty| {
            let mut values: Vec<Val> = Vec::with_capacity(self.terms.len());
            for term in &self.terms {
                let value = self.term(b, term, &values, columns, column, ty);
                values.push(value);
            }
            for (result, to) in self.results.iter().zip(&columns.results) {
                let at = b.at(*to, column, 4);
                let mut value = values[result.term];
                if result.accumulate {
                    let before = b.load(ty, at, 0);
                    value = b.add(before, value);
                }
                b.store(at, 0, value);
            }
        });
    }

    fn term(
        &self,
        b: &mut Builder,
        term: &Term,
        values: &[Val],
        columns: &Columns,
        column: Val,
        ty: Ty,
    ) -> Val {
        match term {
            Term::Load { operand } | Term::Column { operand } => {
                let at = b.at(columns.operands[*operand], column, 4);
                b.load(ty, at, 0)
            }
            Term::Padded { operand, start } => {
                let within = *start..start + self.operands[*operand].columns;
                if !within.contains(&columns.start) {
                    return b.float_of(ty, 0.0);
                }
                let at = b.add_imm(columns.operands[*operand], -(*start as i64) * 4);
                let at = b.at(at, column, 4);
                b.load(ty, at, 0)
            }
            Term::Add(x, y) => b.add(values[*x], values[*y]),
            Term::Mul(x, y) => b.mul(values[*x], values[*y]),
            Term::Sum(parts) => sum(b, parts, values),
            Term::Act(act, x) => activate(b, *act, values[*x]),
            Term::ActSlope(act, x) => activation_slope(b, *act, values[*x]),
            Term::Softcap(cap, x) => softcap_or_nan(b, values[*x], *cap),
            Term::SoftcapSlope(cap, x) => {
                let slope = softcap_slope(b, values[*x], *cap);
                keep_nan(b, values[*x], slope)
            }
            Term::Round(to, x) => round(b, values[*x], *to),
        }
    }
}

/// Σ factor · term, in order.
fn sum(b: &mut Builder, parts: &[(f32, usize)], values: &[Val]) -> Val {
    let mut total = None;
    for (factor, term) in parts {
        let x = values[*term];
        let scale = b.float_of(b.ty(x), *factor);
        total = Some(match total {
            None if *factor == 1.0 => x,
            None => b.mul(x, scale),
            Some(total) if *factor == 1.0 => b.add(total, x),
            Some(total) => b.fma(x, scale, total),
        });
    }
    total.expect("a sum has a part")
}

fn term_name(term: &Term) -> String {
    match term {
        Term::Load { operand } => format!("l{operand}"),
        Term::Column { operand } => format!("c{operand}"),
        Term::Padded { operand, start } => format!("p{operand}x{start}"),
        Term::Add(x, y) => format!("a{x}x{y}"),
        Term::Mul(x, y) => format!("m{x}x{y}"),
        Term::Sum(parts) => {
            let parts = parts
                .iter()
                .map(|(f, t)| format!("x{:08x}t{t}", f.to_bits()));
            format!("s{}", parts.collect::<String>())
        }
        Term::Act(act, x) => format!("{}{x}", act.name()),
        Term::ActSlope(act, x) => format!("d{}{x}", act.name()),
        Term::Softcap(cap, x) => format!("k{:08x}x{x}", cap.to_bits()),
        Term::SoftcapSlope(cap, x) => format!("dk{:08x}x{x}", cap.to_bits()),
        Term::Round(to, x) => format!("r{}x{x}", to.name()),
    }
}
