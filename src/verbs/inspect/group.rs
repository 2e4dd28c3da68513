//! Collapses layers, and names of nodes, that differ in nothing but their number.

use std::fmt;

use rabitc_rbx::Layer;

/// Layers that are alike.
#[derive(Debug)]
pub struct Group<'a> {
    /// One of them.
    pub layer: &'a Layer,
    names: Names,
}

impl Group<'_> {
    /// The common name.
    pub fn name(&self) -> String {
        self.names.to_string()
    }

    /// How many layers it is.
    pub fn count(&self) -> usize {
        self.names.numbers.len().max(1)
    }
}

/// Names with one pattern; shown as `model.layers.0-31.mlp.down_proj`.
#[derive(Debug)]
struct Names {
    /// The name up to the number, and after it.
    pattern: (String, String),
    /// The numbers, ascending; none if the name has none.
    numbers: Vec<usize>,
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, after) = &self.pattern;
        write!(f, "{before}{}{after}", ranges(&self.numbers))
    }
}

impl Names {
    fn new(node: &str) -> Names {
        let (pattern, number) = split(node);
        let numbers = number.into_iter().collect();
        Names { pattern, numbers }
    }

    /// Takes `other`, of the same pattern, in; a number that is there already counts once.
    fn join(&mut self, other: Names) {
        self.numbers.extend(other.numbers);
        self.numbers.sort_unstable();
        self.numbers.dedup();
    }
}

/// The names of nodes, collapsed, in order of their first ones.
pub fn names<'a>(nodes: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<Names> = Vec::new();
    for names in nodes.into_iter().map(Names::new) {
        match all.iter_mut().find(|n| n.pattern == names.pattern) {
            Some(found) => found.join(names),
            None => all.push(names),
        }
    }
    all.iter().map(Names::to_string).collect()
}

/// The groups, in order of their first layers.
pub fn group(layers: &[Layer]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for layer in layers {
        let names = Names::new(&layer.node);
        let same = |g: &&mut Group<'_>| {
            !names.numbers.is_empty() && g.names.pattern == names.pattern && alike(g.layer, layer)
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.names.join(names),
            None => groups.push(Group { layer, names }),
        }
    }
    groups
}

/// Whether two layers are equal but for their names.
fn alike(a: &Layer, b: &Layer) -> bool {
    let renamed = Layer {
        node: a.node.clone(),
        ..b.clone()
    };
    *a == renamed
}

/// A name with a star for its number.
pub fn pattern(node: &str) -> String {
    let ((before, after), number) = split(node);
    match number {
        Some(_) => format!("{before}*{after}"),
        None => before,
    }
}

/// Splits a name at its first part that is a number.
fn split(node: &str) -> ((String, String), Option<usize>) {
    let mut start = 0;
    for part in node.split('.') {
        if let Ok(number) = part.parse() {
            let (before, after) = (&node[..start], &node[start + part.len()..]);
            return ((before.to_owned(), after.to_owned()), Some(number));
        }
        start += part.len() + 1;
    }
    ((node.to_owned(), String::new()), None)
}

/// Numbers as ranges, such as `0-3,5`.
fn ranges(numbers: &[usize]) -> String {
    let mut out = String::new();
    for run in numbers.chunk_by(|a, b| *b == *a + 1) {
        let (first, last) = (run[0], run[run.len() - 1]);
        let comma = if out.is_empty() { "" } else { "," };
        out.push_str(&match first == last {
            true => format!("{comma}{first}"),
            false => format!("{comma}{first}-{last}"),
        });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(node: &str, d_in: usize) -> Layer {
        Layer {
            node: node.to_owned(),
            form: "dense".to_owned(),
            segments: vec![8],
            d_in,
            paths: 0,
            layout: None,
            bytes: 16,
            source_bytes: 16,
            kernels: vec!["linear".to_owned()],
        }
    }

    #[test]
    fn equal_layers_share_a_line() {
        let layers = [
            layer("embed", 4),
            layer("model.layers.0.q", 4),
            layer("model.layers.0.o", 4),
            layer("model.layers.1.q", 4),
            layer("model.layers.1.o", 5),
            layer("model.layers.2.q", 4),
            layer("model.layers.4.q", 4),
            layer("model.layers.4.o", 4),
        ];
        let names: Vec<_> = group(&layers)
            .iter()
            .map(|g| (g.name(), g.count()))
            .collect();
        let expected = [
            ("embed", 1),
            ("model.layers.0-2,4.q", 4),
            ("model.layers.0,4.o", 2),
            ("model.layers.1.o", 1),
        ];
        assert_eq!(
            names,
            expected.map(|(name, count)| (name.to_owned(), count))
        );
    }

    #[test]
    fn nodes_are_listed_once() {
        let nodes = [
            "rope", "l.0.q", "l.0.k", "l.1.q", "rope", "l.0.q", "l.1.k", "l.3.q",
        ];
        assert_eq!(names(nodes), ["rope", "l.0-1,3.q", "l.0-1.k"]);
    }

    #[test]
    fn names_without_numbers_and_with_several() {
        assert_eq!(split("lm_head"), (("lm_head".into(), String::new()), None));
        assert_eq!(split("3"), ((String::new(), String::new()), Some(3)));
        assert_eq!(split("a.2.b.7"), (("a.".into(), ".b.7".into()), Some(2)));
    }
}
