//! The candidates that are measured, compiled.

use anyhow::Result;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_codegen::cuda::{Compiled, Compiler, Source};

use crate::compile::gpu::compile_all;

/// Candidates of a product that are measured at most: those that the cost model likes best.
const MOST_CANDIDATES: usize = 32;
/// Candidates that the model thinks this many times slower than its best are left out.
const HOPELESS: f64 = 3.0;

/// A candidate's kernel, compiled.
pub struct Compilation {
    /// The candidate's number among those of its product.
    pub index: usize,
    /// Its text.
    pub source: Source,
    /// Its machine code.
    pub code: Compiled,
}

/// Compiles the candidates of products that are measured, all at once: the cost model's choices and
/// what it thinks nearly as good, less what spills.
///
/// # Errors
/// A candidate that does not compile.
pub fn compile(compiler: &Compiler, products: &[Product]) -> Result<Vec<Vec<Compilation>>> {
    let tried = products.iter().map(|product| {
        let limit = product.candidates[0].cost * HOPELESS;
        let tried = product.candidates.iter().take(MOST_CANDIDATES);
        let tried = tried.take_while(|c| c.cost <= limit);
        tried.map(|c| c.spec.source(product.arch)).collect()
    });
    let tried: Vec<Vec<Source>> = tried.collect();
    let Some(first) = products.first() else {
        return Ok(Vec::new());
    };
    let mut codes = compile_all(compiler, &tried.concat(), first.arch)?.into_iter();
    let compiled = tried.into_iter().map(|sources| {
        let candidates = sources.into_iter().zip(&mut codes).enumerate();
        let compiled = candidates.map(|(index, (source, code))| Compilation {
            index,
            source,
            code,
        });
        // The first is what is used without measurements.
        let usable = compiled.filter(|c| c.index == 0 || c.code.resources.spill_stores == 0);
        usable.collect()
    });
    Ok(compiled.collect())
}
