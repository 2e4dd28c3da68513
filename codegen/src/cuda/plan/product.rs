//! Products that can be cut in several ways, and the choice among them.
//!
//! A kernel of that sort implements [`Cut`]: the name of what it computes however it is cut, every
//! way to cut it that fits an architecture, and what each asks of a card. The choice falls on what
//! was measured, if the caller knows of measurements, or else on the least time by the cost model.
//! `rabitc tune` measures exactly these candidates, so a measured choice is known by its kernel's
//! name, which says everything.

use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use crate::cuda::kernels::rb_prepare::Order;
use crate::cuda::layout::GpuLayout;
use crate::cuda::source::CudaSpec;

/// A residual-binary product that can be cut in several ways.
pub trait Cut: CudaSpec + Clone + 'static {
    /// The kind of kernel, as reports name it.
    const KIND: &'static str;

    /// What it computes and for how many tokens, however it is cut.
    fn problem(&self) -> String;
    /// Every way to cut it that is worth trying and fits an architecture; none if nothing fits.
    fn candidates(&self, arch: SmArch) -> Vec<Self>;
    /// Seconds that a launch takes on a typical card of the architecture.
    fn seconds(&self, arch: SmArch) -> f64;
    /// Blocks along x and y for the most tokens.
    fn grid(&self) -> [usize; 2];
    /// What it computes, for checks.
    fn task(&self) -> Task;
    /// The order of the prepared input, if it reads one; else it reads x.
    fn input(&self) -> Option<Order> {
        None
    }
}

/// What a product computes, whatever the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Shape and layout of the signs.
    pub layout: GpuLayout,
    /// Tokens of a run at most.
    pub tokens: usize,
    /// To what the input is rounded.
    pub rounding: Rounding,
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

/// To what a product rounds its input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Whole numbers of so many bits, by the largest of some inputs.
    Planes(usize),
    /// f16, and the weights with it.
    Half,
}

/// One way to cut a product.
pub struct Candidate {
    /// The kernel.
    pub spec: Box<dyn CudaSpec>,
    /// Blocks along x and y.
    pub grid: [usize; 2],
    /// See [`Cut::input`].
    pub input: Option<Order>,
    /// Seconds by the cost model.
    pub cost: f64,
}

/// A product of a plan.
pub struct Product {
    /// See [`Cut::problem`].
    pub problem: String,
    /// See [`Cut::KIND`].
    pub kind: &'static str,
    /// The program that it is for; the first, if several have it.
    pub program: &'static str,
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

/// `wanted` cut in the way that is expected to be fastest; `None` if nothing fits the architecture.
pub fn cheapest<T: Cut>(wanted: &T, arch: SmArch) -> Option<T> {
    choose(wanted, arch, "", &unmeasured).map(|(cut, _)| cut)
}

/// Chooses how `wanted` is cut for a program; `None` if nothing fits the architecture.
pub fn choose<T: Cut>(
    wanted: &T,
    arch: SmArch,
    program: &'static str,
    measured: Measured,
) -> Option<(T, Product)> {
    let cuts = wanted.candidates(arch).into_iter();
    let mut cuts: Vec<(T, f64)> = cuts
        .map(|cut| {
            let seconds = cut.seconds(arch);
            (cut, seconds)
        })
        .collect();
    // Equal costs in the order in which candidates are given.
    cuts.sort_by(|a, b| a.1.total_cmp(&b.1));
    let first = &cuts.first()?.0;
    let mut product = Product {
        problem: first.problem(),
        kind: T::KIND,
        program,
        arch,
        task: first.task(),
        candidates: cuts
            .iter()
            .map(|(cut, cost)| candidate(cut, *cost))
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

fn candidate<T: Cut>(cut: &T, cost: f64) -> Candidate {
    Candidate {
        spec: Box::new(cut.clone()),
        grid: cut.grid(),
        input: cut.input(),
        cost,
    }
}

/// Ways to cut one product: each has a name of its own, which begins with the problem that all share.
#[cfg(test)]
pub(super) fn check_names<C: Cut>(cuts: &[C]) {
    let names: std::collections::BTreeSet<String> = cuts.iter().map(|c| c.name()).collect();
    assert_eq!(names.len(), cuts.len());
    for cut in cuts {
        assert_eq!(cut.problem(), cuts[0].problem());
        assert!(cut.name().starts_with(&cut.problem()));
    }
}
