//! The long lists: hashes, and the steps of the programs.

use rabitc_rbx::{Arg, Artifact, Host, Items, Manifest, Program, Scalar, Work};

use crate::ui::{self, Align, Table};

/// Every tensor and section with type, shape, size and blake3.
pub fn hashes(artifact: &Artifact) -> String {
    let mut table = Table::new(&[
        ("tensor", Align::Left),
        ("type", Align::Left),
        ("shape", Align::Left),
        ("size", Align::Right),
        ("blake3", Align::Left),
    ]);
    for (name, tensor) in artifact.tensors() {
        let bytes = artifact.tensor(name).map_or(0, |(_, bytes)| bytes.len());
        let hash = artifact.manifest().hashes.get(name);
        let shape = format!("{:?}", tensor.shape);
        let hash = hash.map_or("–", String::as_str);
        table.row([name, &tensor.dtype, &shape, &ui::size(bytes as u64), hash]);
    }
    format!("{table}\n")
}

/// The steps of every program, in order.
pub fn plan(manifest: &Manifest) -> String {
    let programs = manifest.programs.iter();
    programs
        .map(|p| format!("{}\n{}\n", p.name, steps(manifest, p)))
        .collect()
}

fn steps(manifest: &Manifest, program: &Program) -> Table {
    let mut table = Table::new(&[
        ("phase", Align::Right),
        ("node", Align::Left),
        ("work", Align::Left),
        ("items", Align::Left),
        ("arguments", Align::Left),
    ]);
    for step in &program.steps {
        let (name, items, arguments) = match &step.work {
            Work::Kernel {
                kernel,
                args,
                scalars,
                items,
            } => {
                let kernel = manifest.kernels.get(*kernel);
                let name = kernel.map_or("?", |k| k.name.as_str()).to_owned();
                let scalars = scalars.iter().map(scalar);
                let all: Vec<_> = args.iter().map(arg).chain(scalars).collect();
                (name, self::items(items), all.join(" "))
            }
            Work::Host(Host::RopeTable { inv_freq, out, .. }) => {
                let name = format!("host: rotary table of {} frequencies", inv_freq.len());
                (name, "T".to_owned(), arg(out))
            }
        };
        table.row([
            step.phase.to_string(),
            step.node.clone(),
            name,
            items,
            arguments,
        ]);
    }
    table
}

fn arg(arg: &Arg) -> String {
    match arg {
        Arg::Arena(offset) => format!("arena+{offset}"),
        Arg::Weight(name) => name.clone(),
        Arg::Keys(layer) => format!("keys[{layer}]"),
        Arg::Values(layer) => format!("values[{layer}]"),
        Arg::Ids => "ids".to_owned(),
        Arg::Rows => "rows".to_owned(),
    }
}

fn scalar(scalar: &Scalar) -> String {
    match scalar {
        Scalar::Const(value) => value.to_string(),
        Scalar::Tokens => "T".to_owned(),
        Scalar::Rows => "R".to_owned(),
        Scalar::Start => "start".to_owned(),
        Scalar::Capacity => "capacity".to_owned(),
    }
}

/// Such as `8`, `T`, `4 + 12·T`.
fn items(items: &Items) -> String {
    let term = |count: u64, of: &str| match count {
        0 => None,
        1 => Some(of.to_owned()),
        count => Some(format!("{count}·{of}")),
    };
    let constant = (items.constant > 0).then(|| items.constant.to_string());
    let terms = [
        constant,
        term(items.per_token, "T"),
        term(items.per_row, "R"),
    ];
    let terms: Vec<_> = terms.into_iter().flatten().collect();
    match terms.is_empty() {
        true => "0".to_owned(),
        false => terms.join(" + "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_read_as_formulas() {
        let make = |constant, per_token, per_row| Items {
            constant,
            per_token,
            per_row,
        };
        for (value, text) in [
            (make(0, 0, 0), "0"),
            (make(8, 0, 0), "8"),
            (make(0, 1, 0), "T"),
            (make(4, 12, 2), "4 + 12·T + 2·R"),
        ] {
            assert_eq!(items(&value), text);
        }
    }
}
