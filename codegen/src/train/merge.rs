//! Elementwise steps over the same operands become one, which reads the operands once.

use super::step::{Map, Plan, Step, Term};

/// Operands that a merged step has at most, and terms.
const MOST_OPERANDS: usize = 12;
const MOST_TERMS: usize = 40;
/// How many steps a map may move forward: what it gives is kept that much longer.
const WINDOW: usize = 24;

/// Moves maps up to earlier ones that read one of their operands, where everything that they read
/// is there by then.
pub(super) fn merge(plan: &mut Plan) {
    let mut last_write = vec![0; plan.values.len()];
    for (i, step) in plan.steps.iter().enumerate() {
        for result in step.results() {
            last_write[result.value] = i + 1;
        }
    }
    let mut gone = vec![false; plan.steps.len()];
    for i in 0..plan.steps.len() {
        if gone[i] {
            continue;
        }
        let window = i + 1..plan.steps.len().min(i + WINDOW);
        let waiting: Vec<usize> = window.filter(|j| !gone[*j]).collect();
        for j in waiting {
            let (Step::Map(first), Step::Map(second)) = (&plan.steps[i], &plan.steps[j]) else {
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

/// Whether two maps have the same places and an operand in common that is no single row.
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
        && shared
        && a.operands.len() + new <= MOST_OPERANDS
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
