//! Measurements that `compile` chooses by: this machine's cache, and tables that come with the
//! program.

use anyhow::{Context, Result};
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_rbx::SmArch;

use super::super::cache::Cache;
use super::entry::GpuEntry;

/// Tables that come with this program, one a card: each file in `data/tune/`, and its text.
const SHIPPED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/tune_tables.rs"));

/// Measured times by product.
#[derive(Clone, Debug, Default)]
pub struct GpuTables {
    /// Those of this machine's cache.
    own: Vec<GpuEntry>,
    /// Those that come with the program.
    shipped: Vec<GpuEntry>,
}

impl GpuTables {
    /// The tables that come with the program, and nothing of this machine.
    ///
    /// # Errors
    /// A table that cannot be read, which is a defect of this program.
    pub fn shipped() -> Result<GpuTables> {
        GpuTables::of_texts(SHIPPED)
    }

    /// The tables with these names and texts.
    fn of_texts(texts: &[(&str, &str)]) -> Result<GpuTables> {
        let mut shipped = Vec::new();
        for (name, text) in texts {
            let table = Cache::parse(text).with_context(|| format!("data/tune/{name}"))?;
            shipped.extend(table.gpus);
        }
        Ok(GpuTables {
            own: Vec::new(),
            shipped,
        })
    }

    /// These tables, after what a cache has.
    pub fn with_cache(mut self, cache: Cache) -> GpuTables {
        self.own = cache.gpus;
        self
    }

    /// Whether the cache has anything for an architecture.
    pub fn has_own(&self, arch: SmArch) -> bool {
        self.own.iter().any(|e| e.gpu.arch == arch)
    }

    /// The best candidate of a product, and where it was measured: in the cache, or else in the
    /// tables that come with the program. Times of other code than this program generates do not
    /// count.
    pub fn find(&self, product: &Product) -> Option<(usize, String)> {
        let generator = generator(product);
        let suits = |e: &&GpuEntry| {
            e.problem == product.problem
                && e.gpu.arch == product.arch
                && e.gpu.generator == generator
        };
        let of = |entries: &[GpuEntry]| {
            let entries: Vec<GpuEntry> = entries.iter().filter(suits).cloned().collect();
            best(&entries, product)
        };
        of(&self.own).or_else(|| of(&self.shipped))
    }
}

/// Version of this program and a hash of what it makes of a product. A version alone would not do:
/// kernels change between versions, and nothing makes people count those changes.
pub fn generator(product: &Product) -> String {
    let first = product.candidates.iter().min_by_key(|c| c.spec.name());
    let text = first.map_or(String::new(), |c| c.spec.source(product.arch).text);
    let hash = blake3::hash(text.as_bytes()).to_hex();
    format!(
        "rabitc {}, kernels {}",
        env!("CARGO_PKG_VERSION"),
        &hash[..16]
    )
}

/// The candidate that takes the least time on all cards, in whole layers where all of them have such
/// times, each measured by its own best. `None` if none was measured on all of them.
fn best(entries: &[GpuEntry], product: &Product) -> Option<(usize, String)> {
    let in_step = |kernel: &str| {
        let shares = entries.iter().map(|e| e.step.as_ref()?.share(kernel));
        shares.sum::<Option<f64>>()
    };
    let in_link = |kernel: &str| {
        let shares = entries
            .iter()
            .map(|e| Some(e.time(kernel)? / e.best_time()?));
        shares.sum::<Option<f64>>()
    };
    let least = |time: &dyn Fn(&str) -> Option<f64>| {
        let candidates = product.candidates.iter().enumerate();
        let measured = candidates.filter_map(|(n, c)| {
            let kernel = c.spec.name();
            let chosen = entries.iter().any(|e| e.chose(&kernel));
            Some((n, time(&kernel)?, !chosen))
        });
        let least = measured.min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)));
        least.map(|(n, ..)| n)
    };
    let index = least(&in_step).or_else(|| least(&in_link))?;
    let mut cards: Vec<&str> = entries.iter().map(|e| &e.gpu.gpu[..]).collect();
    cards.sort_unstable();
    cards.dedup();
    // Where there are no entries, every candidate takes no time.
    (!cards.is_empty()).then(|| (index, format!("measured on {}", cards.join(", "))))
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
