//! What the cache keeps of a product on a GPU.

use rabitc_rbx::SmArch;
use serde::{Deserialize, Serialize};

use super::super::cache::Timing;

/// What times depend on besides the product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// The card's name.
    pub gpu: String,
    /// The architecture that the code is for.
    pub arch: SmArch,
    /// The CUDA version of the driver.
    pub driver: String,
    /// This program's version, and a hash of the code that it generates for the product.
    pub generator: String,
}

/// The candidates of one product on one card.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuEntry {
    /// The card and the code.
    #[serde(flatten)]
    pub gpu: Gpu,
    /// The product: the name of its kernels without the way they are cut.
    pub problem: String,
    /// Every candidate, the slow ones too.
    pub candidates: Vec<GpuCandidate>,
}

/// The times of one way to cut a product.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GpuCandidate {
    /// The kernel's name, which says how it is cut.
    pub kernel: String,
    /// A link of a chain: every product of the program once, this one cut like this.
    pub time: Timing,
    /// The cost model's estimate of a launch of this kernel, in nanoseconds.
    pub estimate_ns: f64,
}

impl GpuEntry {
    /// Whether its numbers can be times.
    pub fn is_sane(&self) -> bool {
        !self.candidates.is_empty() && self.candidates.iter().all(|c| c.time.is_sane())
    }

    /// The median time of a kernel, in nanoseconds, if it was measured.
    pub fn time(&self, kernel: &str) -> Option<f64> {
        let found = self.candidates.iter().find(|c| c.kernel == kernel);
        found.map(|c| c.time.median_ns)
    }

    /// The shortest of all median times, in nanoseconds.
    pub fn best_time(&self) -> Option<f64> {
        let times = self.candidates.iter().map(|c| c.time.median_ns);
        times.min_by(f64::total_cmp)
    }
}
