//! Code for GPUs: the plan of every architecture, and its kernels compiled.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use anyhow::{Context, Result, anyhow, bail};
use rabitc_codegen::cuda::nvrtc;
use rabitc_codegen::cuda::plan::product::Product;
use rabitc_codegen::cuda::plan::{GpuOptions, GpuPlan, RING, plan};
use rabitc_codegen::cuda::{Compiled, Compiler, Source};
use rabitc_files::Scratch;
use rabitc_ir::Graph;
use rabitc_rbx::gpu::GpuKernel;
use rabitc_rbx::{GpuTarget, SmArch};

use super::emit::{self, Emit};
use crate::tune::gpu::tables::GpuTables;

/// Code for every GPU target.
#[derive(Default)]
pub struct GpuCode {
    /// One an architecture.
    pub targets: Vec<GpuTarget>,
    /// Name and content of the sections that they name.
    pub sections: Vec<(String, Vec<u8>)>,
}

/// Plans `graph` for every architecture by the measurements in `tables`, compiles the kernels and
/// writes out the stages that `emits` asks for.
///
/// # Errors
/// No NVRTC, a graph that there is no GPU kernel for, or a kernel that does not compile.
pub fn generate(
    graph: &Graph,
    arches: &[SmArch],
    planes: usize,
    tables: &GpuTables,
    emits: &[Emit],
) -> Result<GpuCode> {
    let mut code = GpuCode::default();
    if arches.is_empty() {
        for stage in ["cuda", "ptx", "sass"] {
            if emit::wanted(emits, stage) {
                bail!("--emit {stage}: no GPU is among the targets; give --target cuda:sm_90, say");
            }
        }
        return Ok(code);
    }
    let compiler = Compiler::new()?;
    let (mut text, mut ptx, mut sass) = (String::new(), String::new(), String::new());
    for &arch in arches {
        let plan = plan(graph, GpuOptions { arch, planes }, &|p| tables.find(p))
            .with_context(|| format!("planning for {arch}"))?;
        let sources: Vec<_> = plan.kernels.iter().map(|k| k.source(arch)).collect();
        let compiled = compile_all(&compiler, &sources, arch)?;
        for (source, compiled) in sources.iter().zip(&compiled) {
            text.push_str(&source.text);
            text.push('\n');
            ptx.push_str(&compiled.ptx);
            if emit::wanted(emits, "sass") {
                sass.push_str(&disassemble(&compiled.cubin)?);
            }
        }
        add(
            &mut code,
            plan,
            &sources,
            &compiled,
            GpuOptions { arch, planes },
            &compiler,
        );
    }
    for (stage, text) in [("cuda", &text), ("ptx", &ptx), ("sass", &sass)] {
        emit::text(emits, stage, text)?;
    }
    Ok(code)
}

/// Compiles kernels on all cores, which the compiler allows.
///
/// # Errors
/// A kernel that does not compile.
pub fn compile_all(compiler: &Compiler, sources: &[Source], arch: SmArch) -> Result<Vec<Compiled>> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    // Kernels differ in the time they take, so every thread takes the next.
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let n = next.fetch_add(1, Relaxed);
            let Some(source) = sources.get(n) else {
                return Ok::<_, anyhow::Error>(done);
            };
            done.push((n, compiler.compile(source, arch)?));
        }
    };
    std::thread::scope(|scope| {
        let mut compiled = Vec::with_capacity(sources.len());
        let threads = (0..threads.min(sources.len())).map(|_| scope.spawn(work));
        for thread in threads.collect::<Vec<_>>() {
            let done = thread.join();
            let done = done.map_err(|_| anyhow!("compiling kernels for {arch} panicked"))?;
            compiled.extend(done?);
        }
        compiled.sort_unstable_by_key(|(n, _)| *n);
        Ok(compiled.into_iter().map(|(_, compiled)| compiled).collect())
    })
}

/// A kernel's entry in a table, without the places of its code.
pub fn kernel(source: &Source, compiled: &Compiled) -> GpuKernel {
    GpuKernel {
        name: source.name.clone(),
        params: source.params.clone(),
        threads: source.threads,
        cluster: source.cluster,
        shared: source.shared,
        overlaps: source.overlaps,
        cubin: (0, 0),
        ptx: (0, 0),
        resources: compiled.resources,
        chosen_by: None,
    }
}

/// Adds a target and its sections.
fn add(
    code: &mut GpuCode,
    plan: GpuPlan,
    sources: &[Source],
    compiled: &[Compiled],
    options: GpuOptions,
    compiler: &Compiler,
) {
    let (mut cubins, mut texts) = (Vec::new(), Vec::new());
    let chosen_by = |name: &str| {
        let mut products = plan.products.iter();
        let chosen = |p: &&Product| p.candidates[p.chosen].spec.name() == name;
        products.find(chosen).map(|p| p.chosen_by.clone())
    };
    let kernels = sources.iter().zip(compiled).map(|(source, compiled)| {
        // The driver wants an end to the text.
        let ptx = [compiled.ptx.as_bytes(), &[0]].concat();
        GpuKernel {
            cubin: append(&mut cubins, &compiled.cubin),
            ptx: append(&mut texts, &ptx),
            chosen_by: chosen_by(&source.name),
            ..kernel(source, compiled)
        }
    });
    let kernels = kernels.collect();
    let arch = options.arch;
    let [cubin_section, ptx_section] = ["cuda", "ptx"].map(|k| format!("rbx/code/{k}.{arch}"));
    code.targets.push(GpuTarget {
        arch,
        planes: options.planes,
        compiler: compiler.describe(),
        cubin_section: cubin_section.clone(),
        ptx_section: ptx_section.clone(),
        kernels,
        derived: plan.derived,
        rope_tables: plan.rope_tables,
        setup: plan.setup,
        programs: plan.programs,
        next: plan.next,
        sample: plan.sample,
        probe: plan.probe,
        ring: RING,
    });
    code.sections.push((cubin_section, cubins));
    code.sections.push((ptx_section, texts));
}

/// Adds `bytes` at a multiple of 64, and gives where they are: offset and length.
fn append(to: &mut Vec<u8>, bytes: &[u8]) -> (usize, usize) {
    to.resize(to.len().next_multiple_of(64), 0);
    let start = to.len();
    to.extend_from_slice(bytes);
    (start, bytes.len())
}

/// The machine code of a cubin as text.
fn disassemble(cubin: &[u8]) -> Result<String> {
    let tool = nvdisasm()
        .context("--emit sass needs nvdisasm: run scripts/setup-nvrtc, or install CUDA")?;
    let file = Scratch::new(cubin).context("a file for nvdisasm")?;
    let output = Command::new(&tool)
        .arg("--print-code")
        .arg(file.path())
        .output();
    let output = output.with_context(|| tool.display().to_string())?;
    if !output.status.success() {
        bail!(
            "{}: {}",
            tool.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The disassembler, where NVRTC is looked for, or else on the path.
pub fn nvdisasm() -> Option<PathBuf> {
    let folders = ["bin", "nvidia/cu13/bin", ""];
    let places = nvrtc::places().into_iter();
    let near = places.flat_map(|p| folders.map(|f| p.join(f)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = near.chain(std::env::split_paths(&path).collect::<Vec<_>>());
    all.map(|folder| folder.join("nvdisasm"))
        .find(|file| file.is_file())
}
