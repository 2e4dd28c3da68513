//! The tensors and sections of an artifact, each produced when its turn comes.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use rabitc_frontend::Checkpoint;
use rabitc_ir::interp::eval_constant;
use rabitc_ir::{DType, Graph, Op, WeightStore};
use rabitc_passes::materialize::Materialized;
use rabitc_rbx::{CHAT_TEMPLATE, Entry, GRAPH, TOKENIZER, TOKENIZER_CONFIG};

use super::code::Code;

/// Everything that goes into the artifact, in order: sections, then weights in order of use.
pub fn entries<'a>(
    graph: &'a Graph,
    run_graph: &Graph,
    tensors: &'a [Materialized],
    store: &'a dyn WeightStore,
    checkpoint: &Checkpoint,
    code: &'a Code,
) -> Result<Vec<Entry<'a>>> {
    let mut out = Vec::new();
    out.push(section(GRAPH, rabitc_ir::text::print(run_graph).into_bytes()));
    for (target, bytes) in code.targets.iter().zip(&code.sections) {
        out.push(Entry {
            name: target.section.clone(),
            dtype: "U8",
            shape: vec![bytes.len()],
            bytes: bytes.len(),
            produce: Box::new(move || Ok(bytes.clone())),
        });
    }
    let side = checkpoint.side();
    let texts = [
        (TOKENIZER, side.tokenizer()?),
        (TOKENIZER_CONFIG, side.tokenizer_config()?),
        (CHAT_TEMPLATE, side.tokenizer_settings()?.chat_template),
    ];
    for (name, text) in texts {
        out.extend(text.map(|t| section(name, t.into_bytes())));
    }
    for tensor in tensors {
        out.push(weight(graph, tensor, store)?);
    }
    Ok(out)
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
                Op::Weight(w) => plain(store, &w.name, tensor.ty.dtype),
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

/// A checkpoint tensor as it stands, checked to be finite.
fn plain(store: &dyn WeightStore, name: &str, dtype: DType) -> Result<Vec<u8>, String> {
    let bytes = store.raw(name).map_err(|e| e.to_string())?;
    let finite = |exponent_mask: u32, width: usize| {
        bytes.chunks_exact(width).position(|c| {
            let mut word = [0; 4];
            word[..width].copy_from_slice(c);
            u32::from_le_bytes(word) & exponent_mask == exponent_mask
        })
    };
    let bad = match dtype {
        DType::F32 => finite(0x7f80_0000, 4),
        DType::F16 => finite(0x7c00, 2),
        DType::BF16 => finite(0x7f80, 2),
        _ => None,
    };
    match bad {
        Some(index) => Err(format!("element {index} is NaN or infinite")),
        None => Ok(bytes.into_owned()),
    }
}

/// What the artifact was built from: hashes of config.json and of every tensor's name and type.
pub fn provenance(checkpoint: &Checkpoint) -> Result<BTreeMap<String, String>> {
    let config = std::fs::read(checkpoint.config_path())?;
    let mut headers = String::new();
    for name in checkpoint.names() {
        if let Some(info) = checkpoint.info(name) {
            headers.push_str(&format!("{name} {:?} {:?}\n", info.dtype, info.shape));
        }
    }
    Ok(BTreeMap::from([
        ("config_blake3".into(), hash(&config)),
        ("tensor_headers_blake3".into(), hash(headers.as_bytes())),
    ]))
}

fn hash(bytes: &[u8]) -> String {
    rabitc_rbx::hash_hex(bytes)
}
