//! The GPU kernels of training steps: what NVRTC makes of them.

mod common;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use common::Setup;
use rabitc_codegen::CodegenError;
use rabitc_codegen::cuda::train::launches;
use rabitc_codegen::cuda::{Compiler, Source};
use rabitc_codegen::train::{self, Options};
use rabitc_ir::DType;
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_rbx::SmArch;

/// The kernels of a step, by name.
fn sources(folder: &str, setup: &Setup) -> BTreeMap<String, Source> {
    let found = sources_of(&common::model(folder), setup, SmArch::new(9, 0));
    found.unwrap_or_else(|e| panic!("{e}"))
}

/// The same on an architecture that may not have room for them.
fn sources_of(
    folder: &Path,
    setup: &Setup,
    arch: SmArch,
) -> Result<BTreeMap<String, Source>, CodegenError> {
    let step = common::step(folder, setup);
    let trained: HashSet<String> = step.trained.iter().cloned().collect();
    let options = Options {
        tokens: step.tokens,
        storage: DType::BF16,
        trained,
        join_norms: true,
    };
    let plan = train::plan(&step.graph, &options)?;
    let mut all = BTreeMap::new();
    for step in &plan.steps {
        for launch in launches(&plan, step, arch)?.launches {
            assert_eq!(launch.args.len(), launch.source.params.len());
            assert!(launch.args.len() <= 32, "{} parameters", launch.args.len());
            let name = launch.source.name.clone();
            let old = all.insert(name.clone(), launch.source.clone());
            assert!(old.is_none_or(|o| o == launch.source), "two kernels {name}");
        }
    }
    Ok(all)
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

/// The widest heads have kernels, and where a block's shared memory does not hold their tiles, the
/// error says so before anything is compiled.
#[test]
fn the_widest_heads_compile_or_are_refused() {
    let folder = common::wide_heads(256);
    let folder = folder.path().join("model");
    let setup = Setup::default();
    for arch in [SmArch::new(8, 6), SmArch::new(8, 9)] {
        let message = sources_of(&folder, &setup, arch).err().unwrap().to_string();
        assert!(message.contains("bytes of shared memory"), "{message}");
        assert!(message.contains(&arch.to_string()), "{message}");
    }
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(e) => return eprintln!("skipped: {e}"),
    };
    for arch in [SmArch::new(8, 0), SmArch::new(9, 0)] {
        let all = sources_of(&folder, &setup, arch).unwrap_or_else(|e| panic!("{e}"));
        for (name, source) in all.iter().filter(|(name, _)| name.contains("attention")) {
            let compiled = compiler.compile(source, arch);
            let compiled = compiled.unwrap_or_else(|e| panic!("{e}\n{}", source.text));
            let fixed = compiled.resources.shared;
            let needed = (fixed + source.shared) as usize;
            assert!(
                needed <= arch.shared_bytes(),
                "{name} on {arch}: {needed} bytes"
            );
        }
    }
}
