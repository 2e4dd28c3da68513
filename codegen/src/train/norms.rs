//! Norms and the elementwise steps around them become one step.
//!
//! A norm reads what a residual addition has just computed, and the gradient that it gives is added to
//! others at once: joined, neither goes through memory in between.

use std::collections::HashSet;

use rabitc_ir::{DType, Op};

use super::step::{Kernel, KernelStep, Map, Place, Plan, Step, Term, View};

/// How many steps may lie between two that are joined: what others give may be kept that much longer.
const WINDOW: usize = 24;

/// Joins norms with the maps that compute what they read, and gradients of norms with the maps that
/// read them.
pub(super) fn join(plan: &mut Plan) {
    let mut i = 0;
    while i < plan.steps.len() {
        let near = i + 1..plan.steps.len().min(i + WINDOW);
        if let Some((j, joined)) = near.clone().find_map(|j| Some((j, of_map(plan, i, j)?))) {
            plan.steps[i] = joined;
            plan.steps.remove(j);
        } else if let Some((j, joined)) = near.clone().find_map(|j| Some((j, in_map(plan, i, j)?)))
        {
            replace(plan, i, j, joined);
        }
        i += 1;
    }
}

/// The norm of step `j` with the map of step `i` that computes what it reads.
fn of_map(plan: &Plan, i: usize, j: usize) -> Option<Step> {
    let (Step::Map(map), Step::Kernel(norm)) = (&plan.steps[i], &plan.steps[j]) else {
        return None;
    };
    let Kernel::Op(Op::RmsNorm(op)) = &norm.kernel else {
        return None;
    };
    let (x, weight) = (norm.operands[0], norm.operands[1]);
    let own = map.stores.iter().position(|s| s.to == x)?;
    // The norm takes what it reads as it is computed, so it must be stored without rounding.
    let exact = plan.values[x.value].dtype == DType::F32;
    let plain = map.stores.iter().all(|s| !s.accumulate);
    let held = matches!(plan.values[weight.value].place, Place::Weight(_));
    // It comes before the steps between the two, which then must not touch what it reads or writes.
    let mut between = Touched::default();
    plan.steps[i + 1..j].iter().for_each(|s| between.add(s));
    if !exact || !plain || !held || between.holds_back(&plan.steps[j]) {
        return None;
    }
    let mut map = map.clone();
    map.stores.swap(0, own);
    let operands = map.operands.iter().copied().chain([weight]).collect();
    let results = map.stores.iter().map(|s| s.to).chain([norm.results[0]]);
    Some(Step::Kernel(KernelStep {
        node: norm.node.clone(),
        results: results.collect(),
        operands,
        kernel: Kernel::RmsNormOfMap(op.clone(), Box::new(map)),
        accumulate: false,
    }))
}

/// The gradients of step `i` with the map of step `j`, if that alone reads the first of them.
fn in_map(plan: &Plan, i: usize, j: usize) -> Option<Step> {
    let (Step::Kernel(grads), Step::Map(map)) = (&plan.steps[i], &plan.steps[j]) else {
        return None;
    };
    let Kernel::RmsNormGrads(op) = &grads.kernel else {
        return None;
    };
    let dx = grads.results[0];
    let own = map.operands.iter().position(|o| *o == dx)?;
    let elsewhere = |s: &Step| s.operands().iter().any(|o| o.value == dx.value);
    let readers = plan.steps.iter().filter(|s| elsewhere(s)).count();
    let output = plan.outputs.iter().any(|(_, value)| *value == dx.value);
    let loads = |t: &Term| match t {
        Term::Column { operand } | Term::Padded { operand, .. } => *operand != own,
        _ => true,
    };
    let twice = map.operands.iter().filter(|o| o.value == dx.value).count() > 1;
    if readers > 1 || output || twice || !map.terms.iter().all(loads) {
        return None;
    }
    let map = first_operand(map, own);
    let operands = grads.operands.iter().chain(&map.operands[1..]).copied();
    let results = [grads.results[1]].into_iter();
    Some(Step::Kernel(KernelStep {
        node: map.node.clone(),
        operands: operands.collect(),
        results: results.chain(map.stores.iter().map(|s| s.to)).collect(),
        kernel: Kernel::RmsNormGradsInMap(op.clone(), Box::new(map)),
        accumulate: false,
    }))
}

/// The map with operand `own` as its first.
fn first_operand(map: &Map, own: usize) -> Map {
    let mut out = map.clone();
    out.operands.swap(0, own);
    let swapped = |o: usize| match o {
        0 => own,
        o if o == own => 0,
        o => o,
    };
    let terms = map.terms.iter();
    out.terms = terms.map(|t| t.renumbered(|t| t, swapped)).collect();
    out
}

/// What steps touch.
#[derive(Default)]
struct Touched {
    reads: HashSet<usize>,
    writes: HashSet<usize>,
}

impl Touched {
    fn add(&mut self, step: &Step) {
        let values = |views: Vec<View>| views.into_iter().map(|v| v.value);
        self.reads.extend(values(step.operands()));
        self.writes.extend(values(step.results()));
    }

    /// Whether a step must stay behind these.
    fn holds_back(&self, step: &Step) -> bool {
        let read = step
            .operands()
            .iter()
            .any(|v| self.writes.contains(&v.value));
        let written = |v: &View| self.writes.contains(&v.value) || self.reads.contains(&v.value);
        read || step.results().iter().any(written)
    }
}

/// Puts `joined` in the place of steps `i` and `j`: steps between that need nothing of step `i` come
/// before it, the others after it. If step `j` needs one of those, nothing changes.
fn replace(plan: &mut Plan, i: usize, j: usize, joined: Step) {
    let (mut first, mut behind) = (Touched::default(), Touched::default());
    first.add(&plan.steps[i]);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in &plan.steps[i + 1..j] {
        if first.holds_back(step) || behind.holds_back(step) {
            behind.add(step);
            after.push(step.clone());
        } else {
            before.push(step.clone());
        }
    }
    if behind.holds_back(&plan.steps[j]) {
        return;
    }
    let steps = before.into_iter().chain([joined]).chain(after);
    plan.steps.splice(i..=j, steps);
}
