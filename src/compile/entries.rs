//! The tensors and sections of an artifact, each produced when its turn comes.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use rabitc_frontend::Checkpoint;
use rabitc_ir::interp::eval_constant;
use rabitc_ir::{DType, Graph, Op, WeightStore};
use rabitc_passes::materialize::Materialized;
use rabitc_rbx::{CHAT_TEMPLATE, Entry, GRAPH, TOKENIZER, TOKENIZER_CONFIG};
use rabitc_runtime::tokenizer::Tokenizer;
use rabitc_runtime::tokenizer_config::TokenizerConfig;

use super::code::Code;
use super::gpu::GpuCode;

/// The graph, the code and the texts.
pub fn sections<'a>(
    run_graph: &Graph,
    texts: Vec<(&'static str, String)>,
    code: &'a Code,
    gpu: &'a GpuCode,
) -> Vec<Entry<'a>> {
    let mut out = Vec::new();
    let graph = rabitc_ir::text::print(run_graph);
    out.push(section(GRAPH, graph.into_bytes()));
    for (target, bytes) in code.targets.iter().zip(&code.sections) {
        out.push(Entry {
            name: target.section.clone(),
            dtype: "U8",
            shape: vec![bytes.len()],
            bytes: bytes.len(),
            produce: Box::new(move || Ok(bytes.clone())),
        });
    }
    for (name, bytes) in &gpu.sections {
        out.push(Entry {
            name: name.clone(),
            dtype: "U8",
            shape: vec![bytes.len()],
            bytes: bytes.len(),
            produce: Box::new(move || Ok(bytes.clone())),
        });
    }
    let texts = texts.into_iter();
    out.extend(texts.map(|(name, text)| section(name, text.into_bytes())));
    out
}

/// The tensors, in order of use.
pub fn weights<'a>(
    graph: &'a Graph,
    tensors: &'a [Materialized],
    store: &'a dyn WeightStore,
) -> Result<Vec<Entry<'a>>> {
    tensors.iter().map(|t| weight(graph, t, store)).collect()
}

/// The checkpoint's tokenizer and chat template, as far as it has them.
///
/// # Errors
/// A file that cannot be read, or that the runtime could not use.
pub fn side_sections(checkpoint: &Checkpoint) -> Result<Vec<(&'static str, String)>> {
    let side = checkpoint.side();
    let texts = [
        (TOKENIZER, side.tokenizer()?),
        (TOKENIZER_CONFIG, side.tokenizer_config()?),
        (CHAT_TEMPLATE, side.tokenizer_settings()?.chat_template),
    ];
    check_tokenizer(checkpoint, &texts[0].1, &texts[1].1)?;
    let present = texts
        .into_iter()
        .filter_map(|(name, t)| t.map(|t| (name, t)));
    Ok(present.collect())
}

/// Refuses now what would be refused when the artifact runs.
fn check_tokenizer(
    checkpoint: &Checkpoint,
    tokenizer: &Option<String>,
    config: &Option<String>,
) -> Result<()> {
    let folder = || checkpoint.folder().display().to_string();
    let config = match config {
        Some(text) => TokenizerConfig::from_bytes(text.as_bytes()).with_context(folder)?,
        None => TokenizerConfig::default(),
    };
    if let Some(text) = tokenizer {
        Tokenizer::from_bytes(text.as_bytes(), &config).with_context(folder)?;
    }
    Ok(())
}

fn section<'a>(name: &str, bytes: Vec<u8>) -> Entry<'a> {
    Entry {
        name: name.to_string(),
        dtype: "U8",
        shape: vec![bytes.len()],
        bytes: bytes.len(),
        produce: Box::new(move || Ok(bytes)),
    }
}

fn weight<'a>(
    graph: &'a Graph,
    tensor: &'a Materialized,
    store: &'a dyn WeightStore,
) -> Result<Entry<'a>> {
    let dtype = match tensor.ty.dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::I32 => "I32",
        DType::I8 => "I8",
        DType::U8 => "U8",
        DType::Bit => bail!("`{}` was left unpacked", tensor.name),
    };
    let shape = tensor.ty.fixed_shape().unwrap_or_default();
    let Some(bytes) = tensor.ty.storage_bytes() else {
        bail!("the size of `{}` is not known", tensor.name);
    };
    Ok(Entry {
        name: tensor.name.clone(),
        dtype,
        shape,
        bytes,
        produce: Box::new(move || {
            let bytes = match graph.op(tensor.node) {
                // The store checks that float weights are finite.
                Op::Weight(w) => store
                    .raw(&w.name)
                    .map(|b| b.into_owned())
                    .map_err(|e| e.to_string()),
                _ => eval_constant(graph, tensor.node, store)
                    .map(|t| t.to_le_bytes())
                    .map_err(|e| e.to_string()),
            };
            release(graph, tensor, store);
            bytes
        }),
    })
}

/// Tells the store that the checkpoint tensors behind `tensor` are not needed for now.
fn release(graph: &Graph, tensor: &Materialized, store: &dyn WeightStore) {
    let mut pending = vec![tensor.node];
    while let Some(id) = pending.pop() {
        if let Op::Weight(w) = graph.op(id) {
            store.release(&w.name);
        }
        pending.extend(graph.operands(id));
    }
}

/// What the artifact was built from: hashes of config.json and of every tensor's name and type.
pub fn provenance(checkpoint: &Checkpoint) -> Result<BTreeMap<String, String>> {
    let path = checkpoint.config_path();
    let config = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let mut headers = String::new();
    for name in checkpoint.names() {
        if let Some(info) = checkpoint.info(name) {
            headers.push_str(&format!("{name} {:?} {:?}\n", info.dtype, info.shape));
        }
    }
    let hash = rabitc_rbx::hash_hex;
    Ok(BTreeMap::from([
        ("config_blake3".into(), hash(&config)),
        ("tensor_headers_blake3".into(), hash(headers.as_bytes())),
    ]))
}
