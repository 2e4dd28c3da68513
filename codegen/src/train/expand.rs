//! What a plan must compute: outputs to read back, and gradients to add to those held.

use std::collections::{HashMap, HashSet};

use rabitc_ir::{Graph, NodeId, Op};

use super::fuse::readers;
use super::precision::is_product;

/// Outputs whose name starts so are gradients of the weight that the rest names.
const GRADIENT: &str = "grad.";

/// The ends of a training graph.
pub(super) struct Roots {
    /// Outputs that are read back.
    pub outputs: Vec<(String, NodeId)>,
    /// Nodes whose results are added to the gradients held for these weights. A gradient that is
    /// a sum has one entry a part.
    pub sinks: HashMap<NodeId, Vec<String>>,
    /// Everything that they depend on, operands first.
    pub live: Vec<NodeId>,
}

impl Roots {
    /// The roots of `graph`, where the weights `trained` have gradients held for them.
    pub fn of(graph: &Graph, trained: &HashSet<String>) -> Roots {
        let order = graph.order();
        let readers = readers(graph, &order);
        let (mut outputs, mut sinks) = (Vec::new(), HashMap::<NodeId, Vec<String>>::new());
        for (name, id) in graph.outputs() {
            let weight = name.strip_prefix(GRADIENT).filter(|w| trained.contains(*w));
            let Some(weight) = weight else {
                outputs.push((name.clone(), *id));
                continue;
            };
            for part in parts(graph, &readers, *id) {
                sinks.entry(part).or_default().push(weight.to_string());
            }
        }
        let ends = outputs
            .iter()
            .map(|(_, id)| *id)
            .chain(sinks.keys().copied());
        let live = reachable(graph, ends.collect());
        let live = order.into_iter().filter(|id| live.contains(id)).collect();
        Roots {
            outputs,
            sinks,
            live,
        }
    }

    /// All nodes that are ends.
    pub fn ends(&self) -> HashSet<NodeId> {
        let outputs = self.outputs.iter().map(|(_, id)| *id);
        outputs.chain(self.sinks.keys().copied()).collect()
    }
}

/// Whether it is a sum as it is, without factors.
fn is_plain_sum(op: &Op) -> bool {
    matches!(op, Op::WeightedSum(sum) if sum.factors.iter().all(|f| *f == 1.0))
}

/// What must be added up for `id`: its parts if it is a plain sum that nothing else wants.
fn parts(graph: &Graph, readers: &HashMap<NodeId, Vec<NodeId>>, id: NodeId) -> Vec<NodeId> {
    let outputs = graph.outputs().iter().filter(|(_, o)| *o == id).count();
    if !is_plain_sum(graph.op(id)) || readers.contains_key(&id) || outputs > 1 {
        return vec![id];
    }
    let operands = graph.operands(id).into_iter();
    let inner = operands.flat_map(
        |o| match graph.outputs().iter().any(|(_, other)| *other == o) {
            true => vec![o],
            false => match readers.get(&o).map(Vec::as_slice) {
                Some([_]) if is_plain_sum(graph.op(o)) => graph.operands(o),
                _ => vec![o],
            },
        },
    );
    inner.collect()
}

fn reachable(graph: &Graph, mut stack: Vec<NodeId>) -> HashSet<NodeId> {
    let mut seen = HashSet::new();
    while let Some(id) = stack.pop() {
        if seen.insert(id) {
            stack.extend(graph.operands(id));
        }
    }
    seen
}

/// Products that are added up where they are computed: each with the sum that it is a part of.
/// A sum qualifies if it is no end and all its parts are products that nothing else reads.
pub(super) fn sums_of_products(graph: &Graph, roots: &Roots) -> HashMap<NodeId, NodeId> {
    let readers = readers(graph, &roots.live);
    let ends = roots.ends();
    let mut into = HashMap::new();
    let sums = roots.live.iter();
    let sums = sums.filter(|id| is_plain_sum(graph.op(**id)) && !ends.contains(id));
    for id in sums {
        let parts = graph.operands(*id);
        let fits = parts.iter().all(|part| {
            let once = readers.get(part).is_some_and(|r| r.len() == 1);
            is_product(graph.op(*part)) && once && !ends.contains(part)
        });
        if fits {
            into.extend(parts.into_iter().map(|part| (part, *id)));
        }
    }
    into
}
