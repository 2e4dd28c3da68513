//! Graph to text.

use std::fmt::Write;

use crate::attr::Attr;
use crate::graph::{Graph, NodeId};

/// The text form of `graph`.
pub fn print(graph: &Graph) -> String {
    let mut out = format!("graph {} {{\n", graph.name.print());
    for id in graph.order() {
        out.push_str("  ");
        out.push_str(&line(graph, id));
        out.push('\n');
    }
    for (name, id) in graph.outputs() {
        let node = &graph.node(*id).name;
        writeln!(out, "  output {} %{node}", name.print()).expect("writing to a String");
    }
    out.push_str("}\n");
    out
}

/// One node: `%name = op(%operands) {attributes} : type`.
fn line(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let mut out = format!("%{} = {}", node.name, node.op.name());
    let operands: Vec<_> = graph
        .operands(id)
        .into_iter()
        .map(|o| format!("%{}", graph.node(o).name))
        .collect();
    if !operands.is_empty() {
        write!(out, "({})", operands.join(", ")).expect("writing to a String");
    }
    let attrs = node.op.attrs();
    if !attrs.is_empty() {
        let attrs: Vec<_> = attrs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        write!(out, " {{{}}}", attrs.join(", ")).expect("writing to a String");
    }
    write!(out, " : {}", node.ty).expect("writing to a String");
    out
}
