//! Lifetimes of values, and their places in the arena.

use super::step::{Place, Plan};
use crate::CodegenError;

/// Places begin at multiples of this many bytes: a whole line of any cache, and what vector and
/// matrix instructions ask for.
pub const ALIGNMENT: usize = 256;

/// The steps from which and to which a value must be kept, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// The step that writes it first.
    pub first: usize,
    /// The step that touches it last; one beyond the last step for outputs.
    pub last: usize,
}

impl Lifetime {
    fn overlaps(self, other: Lifetime) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// The lifetime of every value that a step touches.
pub fn lifetimes(plan: &Plan) -> Vec<Option<Lifetime>> {
    let mut all: Vec<Option<Lifetime>> = vec![None; plan.values.len()];
    for (i, step) in plan.steps.iter().enumerate() {
        for view in step.operands().into_iter().chain(step.results()) {
            let found = &mut all[view.value];
            let first = found.map_or(i, |l| l.first);
            *found = Some(Lifetime { first, last: i });
        }
    }
    for (_, value) in &plan.outputs {
        if let Some(lifetime) = &mut all[*value] {
            lifetime.last = plan.steps.len();
        }
    }
    all
}

/// Gives every value of the arena its place: the largest first, each at the lowest offset where no
/// value that lives at the same time is. Sets [`Plan::arena`].
pub(super) fn place(plan: &mut Plan) -> Result<(), CodegenError> {
    let lifetimes = lifetimes(plan);
    let arena = |i: &usize| matches!(plan.values[*i].place, Place::Arena(_));
    let mut order: Vec<usize> = (0..plan.values.len()).filter(arena).collect();
    order.retain(|i| lifetimes[*i].is_some());
    order.sort_by_key(|i| (std::cmp::Reverse(plan.values[*i].bytes()), *i));
    // Sorted by offset: what was placed, with its lifetime and its end.
    let mut placed: Vec<(usize, usize, Lifetime)> = Vec::new();
    let mut total = 0usize;
    for i in order {
        let Some(lifetime) = lifetimes[i] else {
            continue;
        };
        let bytes = plan.values[i].bytes().next_multiple_of(ALIGNMENT);
        let mut offset = 0;
        for (start, end, other) in &placed {
            if !lifetime.overlaps(*other) {
                continue;
            }
            if offset + bytes <= *start {
                break;
            }
            offset = offset.max(*end);
        }
        let end = offset.checked_add(bytes);
        let end = end.ok_or_else(|| CodegenError::plan("the step's values exceed any memory"))?;
        let at = placed.partition_point(|(start, _, _)| *start <= offset);
        placed.insert(at, (offset, end, lifetime));
        plan.values[i].place = Place::Arena(offset);
        total = total.max(end);
    }
    plan.arena = total;
    Ok(())
}
