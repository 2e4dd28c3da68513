//! `--emit`: writes stages of the compilation to files or standard output.

use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use rabitc_ir::Graph;

/// One stage to write out: `STAGE` or `STAGE:FILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emit {
    /// `ir`, `ir-after=PASS`, `kir`, `clif`, `llvm`, `asm`, `dot`, `cuda`, `ptx` or
    /// `sass`.
    pub stage: String,
    /// The file; standard output without one.
    pub file: Option<PathBuf>,
}

const STAGES: [&str; 9] = [
    "ir", "kir", "clif", "llvm", "asm", "dot", "cuda", "ptx", "sass",
];

impl FromStr for Emit {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let (stage, file) = match s.split_once(':') {
            Some((stage, file)) if !file.is_empty() && file != "-" => (stage, Some(file.into())),
            Some((stage, _)) => (stage, None),
            None => (s, None),
        };
        let known = match stage.strip_prefix("ir-after=") {
            Some(pass) if rabitc_passes::find(pass).is_none() => {
                let names: Vec<_> = rabitc_passes::PASSES.iter().map(|p| p.name).collect();
                return Err(format!(
                    "no pass `{pass}`; the passes are {}",
                    names.join(", ")
                ));
            }
            Some(_) => true,
            None => STAGES.contains(&stage),
        };
        if !known {
            return Err(format!(
                "no stage `{stage}`; the stages are {}, ir-after=PASS",
                STAGES.join(", ")
            ));
        }
        Ok(Emit {
            stage: stage.to_string(),
            file,
        })
    }
}

/// Refuses two stages in one file, where the second would replace the first.
///
/// # Errors
/// Names the file.
pub fn check(emits: &[Emit]) -> Result<()> {
    let files = emits.iter().filter_map(|e| e.file.as_deref());
    // Devices take both.
    let files: Vec<_> = files.filter(|f| !f.exists() || f.is_file()).collect();
    for (n, file) in files.iter().enumerate() {
        if files[..n].contains(file) {
            bail!("--emit: two stages go to {}", file.display());
        }
    }
    Ok(())
}

/// Whether `stage` is asked for.
pub fn wanted(emits: &[Emit], stage: &str) -> bool {
    emits.iter().any(|e| e.stage == stage)
}

/// Writes `text` wherever `stage` is asked for.
pub fn text(emits: &[Emit], stage: &str, text: &str) -> Result<()> {
    for emit in emits.iter().filter(|e| e.stage == stage) {
        match &emit.file {
            Some(file) => rabitc_files::write(file, text.as_bytes())
                .with_context(|| file.display().to_string())?,
            None => std::io::stdout()
                .write_all(text.as_bytes())
                .context("standard output")?,
        }
    }
    Ok(())
}

/// Writes a graph's text form wherever `stage` is asked for.
pub fn graph(emits: &[Emit], stage: &str, graph: &Graph) -> Result<()> {
    if !wanted(emits, stage) {
        return Ok(());
    }
    text(emits, stage, &rabitc_ir::text::print(graph))
}

/// Writes the graph as Graphviz source if that is asked for.
pub fn dot(emits: &[Emit], graph: &Graph) -> Result<()> {
    if !wanted(emits, "dot") {
        return Ok(());
    }
    let mut out =
        String::from("digraph {\n  rankdir=TB;\n  node [shape=box, fontname=monospace];\n");
    for id in graph.order() {
        let node = graph.node(id);
        let style = if node.op.compile_time() {
            ", style=filled, fillcolor=lightgray"
        } else {
            ""
        };
        let (op, ty) = (node.op.name(), &node.ty);
        out.push_str(&format!(
            "  \"{0}\" [label=\"{0}\\n{op} : {ty}\"{style}];\n",
            node.name
        ));
        for operand in graph.operands(id) {
            let from = &graph.node(operand).name;
            out.push_str(&format!("  \"{from}\" -> \"{}\";\n", node.name));
        }
    }
    out.push_str("}\n");
    text(emits, "dot", &out)
}

#[cfg(test)]
mod tests {
    use super::Emit;

    #[test]
    fn stages_and_files_are_parsed_and_unknown_ones_refused() {
        let emit: Emit = "ir-after=fuse-paths:out.rbir".parse().unwrap();
        assert_eq!(emit.stage, "ir-after=fuse-paths");
        assert_eq!(emit.file, Some("out.rbir".into()));
        assert_eq!("asm".parse::<Emit>().unwrap().file, None);
        assert_eq!("asm:-".parse::<Emit>().unwrap().file, None);
        assert!(
            "spirv"
                .parse::<Emit>()
                .unwrap_err()
                .contains("no stage `spirv`")
        );
        assert!(
            "ir-after=x"
                .parse::<Emit>()
                .unwrap_err()
                .contains("no pass `x`")
        );
    }
}
