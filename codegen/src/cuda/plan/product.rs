//! Products that can be cut in several ways, and the choice among them.
//!
//! A kernel of that sort implements [`Cut`]: the name of what it computes however it is cut, every
//! way to cut it that fits an architecture, and what each asks of a card. The choice falls on what
//! was measured, if the caller knows of measurements, or else on the least time by the cost model.
//! `rabitc tune` measures exactly these candidates, so a measured choice is known by its kernel's
//! name, which says everything.

use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use super::cost::{Card, Work};
use crate::cuda::layout::GpuLayout;
use crate::cuda::source::CudaSpec;

/// A residual-binary product that can be cut in several ways.
pub trait Cut: CudaSpec + Clone + 'static {
    /// The kernel's name without the way it is cut.
    fn problem(&self) -> String;
    /// Every way to cut it that is worth trying and fits an architecture; none if nothing fits.
    fn candidates(&self, arch: SmArch) -> Vec<Self>;
    /// What it asks of a card.
    fn work(&self, arch: SmArch) -> Work;
    /// What it computes, for checks.
    fn task(&self) -> Task;
}

/// What a product computes, whatever the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Shape and layout of the signs.
    pub layout: GpuLayout,
    /// Tokens at once.
    pub tokens: usize,
    /// Bits of the quantised input.
    pub planes: usize,
    /// f32 elements from one token of the input to the next.
    pub x_stride: usize,
    /// eps of an RMSNorm ahead, whose weight is part of the scales.
    pub norm: Option<f32>,
    /// The activation of two paired segments, act(first) ⊙ second.
    pub gate: Option<Activation>,
    /// f32 elements from one token of the residual to the next, if one is added.
    pub residual: Option<usize>,
    /// Columns of the result.
    pub columns: usize,
}

/// One way to cut a product.
pub struct Candidate {
    /// The kernel.
    pub spec: Box<dyn CudaSpec>,
    /// Blocks along x.
    pub blocks: usize,
    /// Seconds by the cost model.
    pub cost: f64,
}

/// A product of a plan.
pub struct Product {
    /// See [`Cut::problem`].
    pub problem: String,
    /// The architecture.
    pub arch: SmArch,
    /// What is computed.
    pub task: Task,
    /// All ways to cut it, the least cost first.
    pub candidates: Vec<Candidate>,
    /// The one in use.
    pub chosen: usize,
    /// What the choice rests on.
    pub chosen_by: String,
    /// Launches of one run of the program that the product is for.
    pub launches: usize,
}

/// Looks up measurements of a product: the index of the best candidate, and where it was measured.
pub type Measured<'a> = &'a dyn Fn(&Product) -> Option<(usize, String)>;

/// No measurements.
pub fn unmeasured(_: &Product) -> Option<(usize, String)> {
    None
}

/// What the choice rests on where nothing was measured.
pub const COST_MODEL: &str = "by the cost model";

/// Chooses how `wanted` is cut; `None` if nothing fits the architecture.
pub fn choose<T: Cut>(wanted: &T, arch: SmArch, measured: Measured) -> Option<(T, Product)> {
    let card = Card::of(arch);
    let mut cuts: Vec<(T, Work, f64)> = wanted
        .candidates(arch)
        .into_iter()
        .map(|cut| {
            let work = cut.work(arch);
            (cut, work, card.seconds(&work))
        })
        .collect();
    // Equal costs in the order in which candidates are given.
    cuts.sort_by(|a, b| a.2.total_cmp(&b.2));
    let first = &cuts.first()?.0;
    let mut product = Product {
        problem: first.problem(),
        arch,
        task: first.task(),
        candidates: cuts
            .iter()
            .map(|(cut, work, cost)| Candidate {
                spec: Box::new(cut.clone()),
                blocks: work.blocks,
                cost: *cost,
            })
            .collect(),
        chosen: 0,
        chosen_by: COST_MODEL.to_owned(),
        launches: 1,
    };
    if let Some((index, place)) = measured(&product)
        && index < cuts.len()
    {
        (product.chosen, product.chosen_by) = (index, place);
    }
    Some((cuts.swap_remove(product.chosen).0, product))
}
