//! Kernels of training graphs at sizes that say something about them.

pub mod attention;
mod losses;
mod maps;
mod norms;
mod rows;
mod weights;

use rabitc_codegen::cuda::CudaSpec;
use rabitc_codegen::cuda::kernels::train::Layout;
use rabitc_ir::DType;

/// A kernel under the name of its snapshot.
pub type Case = (&'static str, Box<dyn CudaSpec>);

fn case(name: &'static str, spec: impl CudaSpec + 'static) -> Case {
    (name, Box::new(spec))
}

/// All kernels that have a snapshot.
pub fn cases() -> Vec<Case> {
    let groups = [
        attention::cases(),
        losses::cases(),
        maps::cases(),
        norms::cases(),
        rows::cases(),
        weights::cases(),
    ];
    groups.into_iter().flatten().collect()
}

/// A matrix whose rows follow each other.
fn dense(dtype: DType, rows: usize, columns: usize) -> Layout {
    let fits = |v: &usize| columns.is_multiple_of(*v);
    Layout {
        dtype,
        rows,
        columns,
        stride: columns,
        vector: [8, 4, 2].into_iter().find(fits).unwrap_or(1),
    }
}

/// Columns of a wider matrix.
fn part(dtype: DType, rows: usize, columns: usize, stride: usize) -> Layout {
    let vector = if stride.is_multiple_of(8) { 8 } else { 1 };
    Layout {
        stride,
        vector,
        ..dense(dtype, rows, columns)
    }
}
