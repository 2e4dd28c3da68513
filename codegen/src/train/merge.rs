//! Elementwise steps over the same operands become one, which reads the operands once; small ones of
//! one shape become one whatever they read, as launching them is most of their time.

use std::collections::HashSet;

use super::step::{Map, Place, Plan, Step, Term};

/// Operands that a merged step has at most, stores, and terms.
const MOST_OPERANDS: usize = 12;
const MOST_STORES: usize = 12;
const MOST_TERMS: usize = 40;
/// How many steps a map may move forward: what it gives is kept that much longer.
const WINDOW: usize = 24;
/// Elements of a small map. It may move anywhere: what is kept longer is little.
const SMALL: usize = 1 << 15;

/// Moves maps up to earlier ones that read one of their operands, or to earlier small ones, where
/// everything that they read is there by then; then small ones that only add to gradients down to
/// later ones.
pub(super) fn merge(plan: &mut Plan) {
    merge_up(plan);
    merge_down(plan);
}

fn merge_up(plan: &mut Plan) {
    let mut last_write = vec![0; plan.values.len()];
    for (i, step) in plan.steps.iter().enumerate() {
        for result in step.results() {
            last_write[result.value] = i + 1;
        }
    }
    let mut gone = vec![false; plan.steps.len()];
    for i in 0..plan.steps.len() {
        let Some(first) = map(plan, i).filter(|_| !gone[i]) else {
            continue;
        };
        let reach = if is_small(first) { usize::MAX } else { WINDOW };
        let end = plan.steps.len().min(i.saturating_add(reach));
        let waiting: Vec<usize> = (i + 1..end).filter(|j| !gone[*j]).collect();
        for j in waiting {
            let (Some(first), Some(second)) = (map(plan, i), map(plan, j)) else {
                continue;
            };
            let ready = second.operands.iter().all(|o| last_write[o.value] <= i);
            if !ready || !similar(first, second) {
                continue;
            }
            let merged = joined(first, second);
            for store in &second.stores {
                last_write[store.to.value] = i + 1;
            }
            plan.steps[i] = Step::Map(merged);
            gone[j] = true;
        }
    }
    let mut gone = gone.into_iter();
    plan.steps.retain(|_| gone.next() != Some(true));
}

/// Merges small maps that nothing waits for with later ones, if what they read stays as it is.
fn merge_down(plan: &mut Plan) {
    let mut j = plan.steps.len();
    while j > 0 {
        j -= 1;
        if !map(plan, j).is_some_and(|m| waits(plan, m)) {
            continue;
        }
        let mut touched: HashSet<usize> = HashSet::new();
        for i in (0..j).rev() {
            let between = &plan.steps[i + 1];
            touched.extend(between.results().iter().map(|v| v.value));
            let (Some(first), Some(second)) = (map(plan, i), map(plan, j)) else {
                continue;
            };
            let views = first.operands.iter().copied();
            let mut views = views.chain(first.stores.iter().map(|s| s.to));
            let free = views.all(|v| !touched.contains(&v.value));
            if free && waits(plan, first) && similar(second, first) {
                plan.steps[j] = Step::Map(joined(second, first));
                plan.steps.remove(i);
                j -= 1;
            }
        }
    }
}

fn map(plan: &Plan, i: usize) -> Option<&Map> {
    match &plan.steps[i] {
        Step::Map(map) => Some(map),
        _ => None,
    }
}

fn is_small(map: &Map) -> bool {
    map.rows * map.columns <= SMALL
}

/// Whether a map is small and no step waits for it: it adds to gradients alone.
fn waits(plan: &Plan, map: &Map) -> bool {
    let gradient = |value: usize| matches!(plan.values[value].place, Place::Gradient(_));
    let sink = |s: &super::Store| s.accumulate && gradient(s.to.value);
    is_small(map) && map.stores.iter().all(sink)
}

/// Whether two maps have the same places, and are small or have an operand in common that is no single
/// row.
fn similar(a: &Map, b: &Map) -> bool {
    let shared = a
        .operands
        .iter()
        .any(|o| o.rows > 1 && b.operands.contains(o));
    let new = b
        .operands
        .iter()
        .filter(|o| !a.operands.contains(o))
        .count();
    a.rows == b.rows
        && a.columns == b.columns
        && (shared || is_small(a))
        && a.operands.len() + new <= MOST_OPERANDS
        && a.stores.len() + b.stores.len() <= MOST_STORES
        && a.terms.len() + b.terms.len() <= MOST_TERMS
}

fn joined(a: &Map, b: &Map) -> Map {
    let mut map = a.clone();
    let mut operands = Vec::new();
    for view in &b.operands {
        let at = map.operands.iter().position(|o| o == view);
        operands.push(at.unwrap_or_else(|| {
            map.operands.push(*view);
            map.operands.len() - 1
        }));
    }
    let mut terms: Vec<usize> = Vec::new();
    for term in &b.terms {
        let term: Term = term.renumbered(|t| terms[t], |o| operands[o]);
        let at = map.terms.iter().position(|t| *t == term);
        terms.push(at.unwrap_or_else(|| {
            map.terms.push(term);
            map.terms.len() - 1
        }));
    }
    let stores = b.stores.iter().map(|store| super::Store {
        term: terms[store.term],
        ..*store
    });
    map.stores.extend(stores);
    map
}
