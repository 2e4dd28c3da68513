//! Lowering: the graph of one model a family, both forms of configuration, every way in which a
//! checkpoint may name or lack its tensors.

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::{FAMILIES, copy, edit_config, fixture, models};
use rabitc_frontend::{BufferPrecision, Checkpoint, Error, LowerOptions, Lowered, lower};
use rabitc_ir::text;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

fn open(folder: &Path) -> Result<Lowered, Error> {
    lower(&Checkpoint::open(folder)?, &LowerOptions::default())
}

fn graph(folder: &Path) -> String {
    text::print(&open(folder).unwrap().graph)
}

fn read(folder: &Path) -> Tensors {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let tensor = |name: &str| {
        let info = checkpoint.info(name).unwrap();
        (
            info.dtype,
            info.shape,
            checkpoint.bytes(name).unwrap().to_vec(),
        )
    };
    checkpoint
        .names()
        .map(|n| (n.to_string(), tensor(n)))
        .collect()
}

fn write(folder: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
    });
    safetensors::serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
}

/// A copy of a fixture whose tensors `edit` has changed.
fn edited(family: &str, edit: impl FnOnce(&mut Tensors)) -> tempfile::TempDir {
    let dir = copy(family);
    let mut tensors = read(dir.path());
    edit(&mut tensors);
    write(dir.path(), &tensors);
    dir
}

#[test]
fn graphs_are_as_they_were() {
    for family in FAMILIES {
        let printed = graph(&fixture(family));
        insta::assert_snapshot!(family, printed);
        let parsed = text::parse(&printed).unwrap();
        assert_eq!(text::print(&parsed), printed, "{family}");
    }
}

#[test]
fn the_model_is_described() {
    let lowered = open(&models("books-1m")).unwrap();
    let model = lowered.model;
    assert_eq!(model.architecture, "LlamaForCausalLM");
    assert_eq!((model.vocab_size, model.context_length), (2048, 1024));
    assert_eq!(
        (model.n_layers, model.hidden_size, model.intermediate_size),
        (4, 128, 384)
    );
    assert_eq!(
        (model.n_heads, model.n_kv_heads, model.head_dim),
        (4, 2, 32)
    );
    assert_eq!((model.bos, model.eos), (Some(0), vec![1]));
    let checkpoint = Checkpoint::open(models("books-1m")).unwrap();
    let context = |n| {
        let options = LowerOptions {
            context_length: Some(n),
            ..LowerOptions::default()
        };
        lower(&checkpoint, &options).map(|l| l.model.context_length)
    };
    assert_eq!(context(100).unwrap(), 100);
    assert!(context(1025).unwrap_err().to_string().contains("1 to 1024"));
    assert!(context(0).is_err());
}

/// The form of config.json that was written before `rope_parameters`.
fn older_form(config: &mut Value) {
    let keys = config.as_object_mut().unwrap();
    let mut rope = keys.remove("rope_parameters").unwrap();
    if rope.get("full_attention").is_some() {
        keys.insert(
            "rope_local_base_freq".into(),
            rope["sliding_attention"]["rope_theta"].clone(),
        );
        rope = rope["full_attention"].clone();
        keys.remove("layer_types");
        keys.insert("sliding_window_pattern".into(), json!(6));
    }
    let rope = rope.as_object_mut().unwrap();
    keys.insert("rope_theta".into(), rope.remove("rope_theta").unwrap());
    let kind = rope.remove("rope_type").unwrap();
    if kind != "default" {
        rope.insert("type".into(), kind);
        keys.insert("rope_scaling".into(), json!(rope));
    }
    let dtype = keys.remove("dtype").unwrap();
    keys.insert("torch_dtype".into(), dtype);
}

#[test]
fn both_forms_of_configuration_give_the_same_graph() {
    for family in FAMILIES {
        let dir = copy(family);
        edit_config(dir.path(), older_form);
        assert_eq!(graph(dir.path()), graph(&fixture(family)), "{family}");
    }
}

#[test]
fn buffers_are_rounded_unless_f32_is_asked_for() {
    let checkpoint = Checkpoint::open(fixture("gemma3")).unwrap();
    let printed = |buffers| {
        let options = LowerOptions {
            buffers,
            ..LowerOptions::default()
        };
        text::print(&lower(&checkpoint, &options).unwrap().graph)
    };
    let (rounded, exact) = (
        printed(BufferPrecision::Checkpoint),
        printed(BufferPrecision::F32),
    );
    assert!(rounded.contains("{scale=9.8125}") && rounded.contains("data=[1.0,0.5625,"));
    assert!(exact.contains("{scale=9.797959}") && exact.contains("data=[1.0,0.56234133,"));
}

fn renamed(tensors: &mut Tensors, f: impl Fn(&str) -> String) {
    *tensors = std::mem::take(tensors)
        .into_iter()
        .map(|(n, t)| (f(&n), t))
        .collect();
}

#[test]
fn prefixes_of_tensor_names_do_not_change_the_nodes() {
    let nodes = |text: &str| -> Vec<String> {
        let run_time = text.lines().filter(|l| !l.contains("= weight"));
        run_time
            .filter_map(|l| l.trim().split_once(" = ").map(|(n, _)| n.to_string()))
            .collect()
    };
    let plain = graph(&fixture("llama2"));
    for prefix in ["", "language_model.model.", "model.language_model."] {
        let dir = edited("llama2", |t| renamed(t, |n| n.replace("model.", prefix)));
        let found = graph(dir.path());
        assert_eq!(nodes(&found), nodes(&plain), "{prefix}");
        assert!(
            found.contains(&format!("name=\"{prefix}norm.weight\"")),
            "{prefix}"
        );
    }
}

#[test]
fn tied_heads_are_found_wherever_they_stand() {
    let head = |dir: &tempfile::TempDir| {
        let text = graph(dir.path());
        let line = text.lines().find(|l| l.contains("%lm_head = ")).unwrap();
        line.split_once(", %")
            .unwrap()
            .1
            .split(')')
            .next()
            .unwrap()
            .to_string()
    };
    const EMBEDDING: &str = "model.embed_tokens.weight";
    const HEAD: &str = "lm_head.weight";
    assert_eq!(head(&copy("llama3")), EMBEDDING);
    let both = |t: &mut Tensors| {
        let e = t[EMBEDDING].clone();
        t.insert(HEAD.into(), e);
    };
    assert_eq!(head(&edited("llama3", both)), EMBEDDING);
    let other = |t: &mut Tensors| {
        both(t);
        t.get_mut(HEAD).unwrap().2[1] ^= 1;
    };
    assert_eq!(head(&edited("llama3", other)), HEAD);
    let only = |t: &mut Tensors| renamed(t, |n| n.replace(EMBEDDING, HEAD));
    assert_eq!(head(&edited("llama3", only)), HEAD);
}

#[test]
fn buffers_of_older_checkpoints_are_ignored() {
    let dir = edited("llama2", |t| {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        t.insert(name.into(), (Dtype::F32, vec![12], vec![0; 48]));
    });
    open(dir.path()).unwrap();
}

#[test]
fn faults_of_checkpoints_are_named() {
    const Q: &str = "model.layers.1.self_attn.q_proj.weight";
    let float = |shape: &[usize]| {
        let n: usize = shape.iter().product();
        (Dtype::BF16, shape.to_vec(), vec![0; 2 * n])
    };
    type Edit = Box<dyn Fn(&mut Tensors)>;
    let without = |name: &'static str| -> Edit { Box::new(move |t| drop(t.remove(name))) };
    let put = |name: &'static str, tensor: (Dtype, Vec<usize>, Vec<u8>)| -> Edit {
        Box::new(move |t| drop(t.insert(name.into(), tensor.clone())))
    };
    let cases: Vec<(Edit, &str)> = vec![
        (
            without(Q),
            "tensor `model.layers.1.self_attn.q_proj.weight` is missing; the configuration calls for shape [96, 96]",
        ),
        (
            without("model.embed_tokens.weight"),
            "`model.embed_tokens.weight` is missing",
        ),
        (without("lm_head.weight"), "`lm_head.weight` is missing"),
        (
            without("model.norm.weight"),
            "`model.norm.weight` is missing",
        ),
        (
            put(Q, float(&[96, 95])),
            "has shape [96, 95]; the configuration calls for [96, 96]",
        ),
        (put(Q, float(&[96 * 96])), "has shape [9216]"),
        (
            put(Q, (Dtype::F8_E4M3, vec![96, 96], vec![0; 9216])),
            "F8_E4M3: weights are F32, F16 or BF16",
        ),
        (
            put(Q, (Dtype::I8, vec![96, 96], vec![0; 9216])),
            "I8: weights are",
        ),
        (
            put("model.layers.3.mlp.up_proj.weight", float(&[1])),
            "tensor `model.layers.3.mlp.up_proj.weight` is not part of the model",
        ),
        (
            put("model.layers.0.self_attn.q_proj.bias", float(&[96])),
            "`model.layers.0.self_attn.q_proj.bias` is not part",
        ),
        (
            put("model.layers.1.self_attn.q_proj.rb_g", float(&[2, 96])),
            "`model.layers.1.self_attn.q_proj.rb_h` is missing",
        ),
        (
            put("model.layers.1.self_attn.q_proj.rb_h", float(&[2, 96])),
            "`model.layers.1.self_attn.q_proj.rb_g` is missing",
        ),
        (
            put("model.layers.1.self_attn.q_proj.rb_g", float(&[9, 96])),
            "shape [9, 96]: scales are [paths, channels], 1 to 8 paths",
        ),
        (
            put("model.layers.1.self_attn.q_proj.rb_g", float(&[96])),
            "shape [96]: scales are",
        ),
        (
            put(
                "model.layers.1.self_attn.q_proj.rb_bits",
                (Dtype::U8, vec![1, 96, 12], vec![0; 1152]),
            ),
            "has no scales",
        ),
    ];
    for (edit, expected) in cases {
        let dir = edited("llama2", edit);
        let text = open(dir.path()).unwrap_err().to_string();
        assert!(text.contains(expected), "`{expected}` is not in: {text}");
        assert!(text.starts_with(dir.path().to_str().unwrap()), "{text}");
    }
}

#[test]
fn faults_of_configurations_are_named() {
    let dir = copy("llama2");
    edit_config(dir.path(), |c| c["num_hidden_layers"] = json!(2));
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains("`model.layers.2.input_layernorm.weight`")
            && text.contains("and 4 more are not"),
        "{text}"
    );
    std::fs::write(
        dir.path().join("generation_config.json"),
        r#"{"eos_token_id": "x"}"#,
    )
    .unwrap();
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains("generation_config.json: `eos_token_id`"),
        "{text}"
    );
    edit_config(dir.path(), |c| c["hidden_act"] = json!("relu"));
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(
        text.contains("config.json: unknown activation function `relu`"),
        "{text}"
    );
    std::fs::remove_file(dir.path().join("config.json")).unwrap();
    let text = open(dir.path()).unwrap_err().to_string();
    assert!(text.contains("config.json: No such file"), "{text}");
}
