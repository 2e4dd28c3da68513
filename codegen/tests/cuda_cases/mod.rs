//! The configurations whose text is snapshotted and compiled.

mod attention;
mod products;
mod rows;

use rabitc_codegen::cuda::CudaSpec;

/// Name of the snapshot, and kernel.
pub type Case = (&'static str, Box<dyn CudaSpec>);

/// One case.
fn case(name: &'static str, spec: impl CudaSpec + 'static) -> Case {
    (name, Box::new(spec))
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let all = [products::cases(), attention::cases(), rows::cases()];
    all.into_iter().flatten().collect()
}
