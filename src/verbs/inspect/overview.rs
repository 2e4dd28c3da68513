//! The overview: what `rabitc inspect` prints without options.

use rabitc_rbx::{
    Artifact, CHAT_TEMPLATE, GRAPH, Level, Manifest, Program, SECTION_PREFIX, TOKENIZER,
    TOKENIZER_CONFIG, Work,
};

use super::group::{Group, group, names};
use crate::ui::{self, Align, Table};

/// Facts, sizes and layers; programs, targets and kernels for CPUs.
pub fn overview(artifact: &Artifact) -> String {
    let manifest = artifact.manifest();
    let mut out = format!("{}\n{}\n", facts(artifact), sizes(artifact));
    // What is for GPUs follows the overview.
    let cpu = !manifest.targets.is_empty();
    if cpu {
        out += &format!("{}\n{}\n", programs(manifest), targets(artifact));
    }
    out += &layers(manifest).to_string();
    if cpu {
        out += &format!("\n{}", kernels(manifest));
    }
    out
}

/// Title and value of everything that is one line.
fn facts(artifact: &Artifact) -> String {
    let manifest = artifact.manifest();
    let model = &manifest.model;
    let ids = |ids: &[u32]| {
        ids.iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    };
    let built: Vec<_> = manifest
        .built_from
        .iter()
        .map(|(k, v)| format!("{k}: {v}"))
        .collect();
    let lines = [
        ("artifact", artifact.path().display().to_string()),
        (
            "format",
            format!("{}, written by {}", manifest.format, manifest.generator),
        ),
        (
            "model",
            format!("{} ({})", model.architecture, model.family),
        ),
        (
            "shape",
            format!(
                "{} blocks, hidden size {}, {} query and {} key/value heads of {}",
                model.n_layers, model.hidden_size, model.n_heads, model.n_kv_heads, model.head_dim,
            ),
        ),
        ("vocabulary", format!("{} tokens", model.vocab_size)),
        ("context", format!("{} positions", model.context_length)),
        (
            "begin token",
            model.bos.map_or("none".to_owned(), |id| id.to_string()),
        ),
        ("tokenizer", tokenizer(artifact).to_owned()),
        (
            "end tokens",
            if model.eos.is_empty() {
                "none".to_owned()
            } else {
                ids(&model.eos)
            },
        ),
        ("activations", activations(manifest)),
        ("built from", built.join("\n             ")),
    ];
    let lines = lines.map(|(title, value)| format!("{title:<12} {value}\n"));
    lines.concat()
}

/// The format of the activations on CPUs and how exact it is.
fn activations(manifest: &Manifest) -> String {
    let format = manifest.activations.as_str();
    let bound = match format {
        _ if manifest.targets.is_empty() => return "as the targets say, below".to_owned(),
        "int8" => "sums of 4 inputs off by at most 1/254 of the largest among 256 inputs",
        "int16" => "sums of 4 inputs off by at most 1/65534 of the largest among 256 inputs",
        "f32" => "exact up to the rounding of f32 sums, 2^-24 of the largest among 256 inputs",
        _ => return format.to_owned(),
    };
    format!("{format}: {bound}")
}

/// What there is to turn text into tokens.
fn tokenizer(artifact: &Artifact) -> &'static str {
    let has = |name| artifact.tensor(name).is_some();
    match (has(TOKENIZER), has(CHAT_TEMPLATE)) {
        (true, true) => "yes, with a chat template",
        (true, false) => "yes, without a chat template",
        (false, _) => "none: the model takes token ids only",
    }
}

/// What takes how much of the file.
fn sizes(artifact: &Artifact) -> Table {
    let mut table = Table::new(&[("part", Align::Left), ("size", Align::Right)]);
    let manifest = artifact.manifest();
    let mut known = 0;
    for wanted in ["weights", "code", "GPU code", "graph", "tokenizer"] {
        let names = artifact.tensors().map(|(name, _)| name);
        let tensors = names.filter(|name| part(manifest, name) == Some(wanted));
        let tensors = tensors.filter_map(|name| artifact.tensor(name));
        let bytes: u64 = tensors.map(|(_, bytes)| bytes.len() as u64).sum();
        known += bytes;
        if wanted != "GPU code" || bytes > 0 {
            table.row([wanted, &ui::size(bytes)]);
        }
    }
    let file = artifact.file_bytes() as u64;
    table.row([
        "manifest and padding",
        &ui::size(file.saturating_sub(known)),
    ]);
    table.row(["file", &ui::size(file)]);
    table
}

/// The part of the file that a tensor or section belongs to.
fn part(manifest: &Manifest, name: &str) -> Option<&'static str> {
    let mut gpus = manifest.gpus.iter();
    match name {
        GRAPH => Some("graph"),
        TOKENIZER | TOKENIZER_CONFIG | CHAT_TEMPLATE => Some("tokenizer"),
        _ if !name.starts_with(SECTION_PREFIX) => Some("weights"),
        _ if manifest.targets.iter().any(|t| t.section == name) => Some("code"),
        _ if gpus.any(|t| t.cubin_section == name || t.ptx_section == name) => Some("GPU code"),
        _ => None,
    }
}

fn programs(manifest: &Manifest) -> Table {
    let mut table = Table::new(&[
        ("program", Align::Left),
        ("tokens a run", Align::Right),
        ("steps", Align::Right),
        ("phases", Align::Right),
        ("arena", Align::Right),
    ]);
    for program in &manifest.programs {
        let phases = program.steps.chunk_by(|a, b| a.phase == b.phase).count();
        table.row([
            program.name.clone(),
            program.max_tokens.to_string(),
            program.steps.len().to_string(),
            phases.to_string(),
            ui::size(program.arena_bytes as u64),
        ]);
    }
    table
}

fn targets(artifact: &Artifact) -> Table {
    let manifest = artifact.manifest();
    let machine = Level::native();
    let mut table = Table::new(&[
        ("target", Align::Left),
        ("backend", Align::Left),
        ("kernels", Align::Right),
        ("code", Align::Right),
        ("runs here", Align::Left),
    ]);
    for target in &manifest.targets {
        let code = artifact
            .tensor(&target.section)
            .map_or(0, |(_, bytes)| bytes.len());
        let runs = machine.is_some_and(|machine| machine.supports(target.level));
        table.row([
            format!("cpu:{}", target.level),
            target.backend.clone(),
            target.entries.len().to_string(),
            ui::size(code as u64),
            if runs { "yes" } else { "no" }.to_owned(),
        ]);
    }
    table
}

fn layers(manifest: &Manifest) -> Table {
    let mut table = Table::new(&[
        ("layers", Align::Left),
        ("form", Align::Left),
        ("outputs × inputs", Align::Left),
        ("paths", Align::Right),
        ("bits/weight", Align::Right),
        ("before", Align::Right),
        ("size", Align::Right),
    ]);
    for group in group(&manifest.layers) {
        table.row(layer(&group));
    }
    table
}

/// A group's line; sizes are those of all its layers.
fn layer(group: &Group<'_>) -> [String; 7] {
    let layer = group.layer;
    let count = group.count() as u64;
    let segments: Vec<_> = layer.segments.iter().map(usize::to_string).collect();
    let d_out: f64 = layer.segments.iter().map(|n| *n as f64).sum();
    let bits = layer.bytes as f64 * 8.0 / (d_out * layer.d_in as f64).max(1.0);
    [
        group.name(),
        layer.form.replace('_', "-"),
        format!("{} × {}", segments.join("+"), layer.d_in),
        if layer.paths > 0 {
            layer.paths.to_string()
        } else {
            String::new()
        },
        format!("{bits:.2}"),
        ui::size(layer.source_bytes.saturating_mul(count)),
        ui::size(layer.bytes.saturating_mul(count)),
    ]
}

/// Which kernel computes what, and in which programs.
fn kernels(manifest: &Manifest) -> Table {
    let mut table = Table::new(&[
        ("kernel", Align::Left),
        ("programs", Align::Left),
        ("computes", Align::Left),
    ]);
    for (number, kernel) in manifest.kernels.iter().enumerate() {
        let nodes = |program: &Program| -> Vec<String> {
            let steps = program.steps.iter().filter(|step| match step.work {
                Work::Kernel { kernel, .. } => kernel == number,
                Work::Host(_) => false,
            });
            steps.map(|step| step.node.clone()).collect()
        };
        let uses: Vec<_> = manifest
            .programs
            .iter()
            .map(|p| (&p.name, nodes(p)))
            .collect();
        let programs = uses.iter().filter(|(_, nodes)| !nodes.is_empty());
        let programs: Vec<_> = programs.map(|(name, _)| name.as_str()).collect();
        let nodes = uses.iter().flat_map(|(_, nodes)| nodes).map(String::as_str);
        table.row([
            kernel.name.clone(),
            programs.join(", "),
            names(nodes).join(", "),
        ]);
    }
    table
}
