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
    /// Times in whole layers, if they were measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepTimes>,
}

/// Times of a product's best candidates in layers of the program, everything between the products
/// included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTimes {
    /// Positions that were cached.
    pub positions: usize,
    /// The kernel that the search ended with.
    pub chosen: String,
    /// What two measurements of the same launches differ by, in nanoseconds of a layer.
    pub noise_ns: f64,
    /// A layer with each candidate, the other products cut as chosen.
    pub times: Vec<StepTime>,
}

/// The time of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepTime {
    /// The kernel's name, which says how the product is cut.
    pub kernel: String,
    /// The time.
    pub time: Timing,
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
        let step = self.step.as_ref().is_none_or(StepTimes::is_sane);
        step && !self.candidates.is_empty() && self.candidates.iter().all(|c| c.time.is_sane())
    }

    /// The median time of a kernel, in nanoseconds, if it was measured.
    pub fn time(&self, kernel: &str) -> Option<f64> {
        let found = self.candidates.iter().find(|c| c.kernel == kernel);
        found.map(|c| c.time.median_ns)
    }

    /// Whether the search in whole layers ended with a kernel.
    pub fn chose(&self, kernel: &str) -> bool {
        self.step.as_ref().is_some_and(|s| s.chosen == kernel)
    }

    /// The shortest of all median times, in nanoseconds.
    pub fn best_time(&self) -> Option<f64> {
        let times = self.candidates.iter().map(|c| c.time.median_ns);
        times.min_by(f64::total_cmp)
    }
}

impl StepTimes {
    fn is_sane(&self) -> bool {
        let sane = self.times.iter().all(|t| t.time.is_sane());
        sane && self.noise_ns.is_finite() && self.noise_ns >= 0.0
    }

    /// The median time of a layer with a kernel in nanoseconds, if it was measured.
    pub fn time(&self, kernel: &str) -> Option<f64> {
        let found = self.times.iter().find(|t| t.kernel == kernel);
        found.map(|t| t.time.median_ns)
    }

    /// The time of a layer as a share of that with the chosen kernel; what differs by no more than
    /// the noise differs by nothing.
    pub fn share(&self, kernel: &str) -> Option<f64> {
        let (time, chosen) = (self.time(kernel)?, self.time(&self.chosen)?);
        match (time - chosen).abs() <= self.noise_ns {
            true => Some(1.0),
            false => Some(time / chosen),
        }
    }
}
