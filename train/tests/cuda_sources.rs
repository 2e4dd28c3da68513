//! The GPU kernels of training steps: what NVRTC makes of them.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::Setup;
use rabitc_codegen::cuda::train::launches;
use rabitc_codegen::cuda::{Compiler, Source};
use rabitc_codegen::train::{self, Options};
use rabitc_ir::DType;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_rbx::SmArch;

/// The kernels of a step, by name.
fn sources(folder: &str, setup: &Setup) -> BTreeMap<String, Source> {
    let step = common::step(&common::model(folder), setup);
    let trained: HashSet<String> = step.trained.iter().cloned().collect();
    let options = Options {
        tokens: step.tokens,
        storage: DType::BF16,
        trained,
    };
    let plan = train::plan(&step.graph, &options).unwrap_or_else(|e| panic!("{e}"));
    let mut all = BTreeMap::new();
    for step in &plan.steps {
        let found = launches(&plan, step, SmArch::new(9, 0)).unwrap_or_else(|e| panic!("{e}"));
        for launch in found.launches {
            assert_eq!(launch.args.len(), launch.source.params.len());
            assert!(launch.args.len() <= 24, "{} parameters", launch.args.len());
            let name = launch.source.name.clone();
            let old = all.insert(name.clone(), launch.source.clone());
            assert!(old.is_none_or(|o| o == launch.source), "two kernels {name}");
        }
    }
    all
}

#[test]
fn kernels_compile() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(e) => return eprintln!("skipped: {e}"),
    };
    let mut all = sources("models/fixtures/llama2", &Setup::default());
    let other = Setup {
        derive: Derive::Independent,
        normalize: Normalize::Target,
        dtype: DType::BF16,
        paths: 3,
        checkpoint: true,
        ..Setup::default()
    };
    all.extend(sources("models/fixtures/variants/gemma3-softcap", &other));
    all.extend(sources("models/fixtures/qwen2", &other));
    for (name, source) in &all {
        let compiled = compiler.compile(source, SmArch::new(9, 0));
        let compiled = compiled.unwrap_or_else(|e| panic!("{e}\n{}", source.text));
        let resources = compiled.resources;
        assert_eq!(resources.spill_loads, 0, "{name} spills: {resources:?}");
    }
}
