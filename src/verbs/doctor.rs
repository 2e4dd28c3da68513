//! `rabitc doctor`: what this machine has for compiling and running.

use std::path::PathBuf;

use anyhow::Result;
use rabitc::compile::code::BackendChoice;
use rabitc::compile::gpu::nvdisasm;
use rabitc_codegen::cuda::Compiler;
use rabitc_rbx::Level;
use rabitc_runtime::cuda::driver::{DeviceInfo, installed};
use rabitc_runtime::topology;
use serde::Serialize;

use crate::ui;

/// Show what this machine has for every target, and what is missing
///
/// Names the CPU level, the code generator, the CUDA compiler (NVRTC) and its tools, the CUDA driver
/// and every GPU, with versions and where they were found. Nothing that is missing is an error: it says what
/// cannot be done without it and how to get it.
#[derive(clap::Args)]
#[command(after_long_help = "Examples:\n  rabitc doctor\n  rabitc doctor --json")]
pub struct Args {
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// One thing that was looked for.
#[derive(Debug, Serialize)]
struct Finding {
    /// What it is.
    name: &'static str,
    /// Whether it is there.
    found: bool,
    /// Version, if it has one that can be found out.
    version: Option<String>,
    /// Where it is, if it is a file.
    path: Option<PathBuf>,
    /// What else is known of it, or why it is not there and what to do about that.
    detail: String,
    /// What it is needed for.
    needed_for: &'static str,
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let mut findings = vec![cpu()];
    findings.extend(backends());
    findings.extend([nvrtc(), disassembler(), cublaslt()]);
    findings.extend(gpus());
    if args.json {
        return ui::print_json(&findings);
    }
    let lines = findings.iter().map(Finding::line);
    ui::print(&lines.collect::<String>())
}

impl Finding {
    fn line(&self) -> String {
        let mark = if self.found { "found  " } else { "missing" };
        let path = self.path.as_ref().map(|p| p.display().to_string());
        let parts = [self.version.clone(), path, Some(self.detail.clone())];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let parts: Vec<String> = parts.into_iter().filter(|p| !p.is_empty()).collect();
        let (name, needed_for) = (self.name, self.needed_for);
        format!("{mark}  {name}: {} ({needed_for})\n", parts.join(", "))
    }

    fn with(mut self, version: Option<String>, path: Option<PathBuf>) -> Finding {
        (self.version, self.path) = (version, path);
        self
    }
}

fn finding(
    name: &'static str,
    result: Result<String, String>,
    needed_for: &'static str,
) -> Finding {
    let found = result.is_ok();
    let detail = result.unwrap_or_else(|reason| reason);
    Finding {
        name,
        found,
        version: None,
        path: None,
        detail,
        needed_for,
    }
}

fn cpu() -> Finding {
    let level = Level::native().map(|level| {
        let threads = topology::default_threads();
        format!("{level}, {threads} threads by default")
    });
    let level = level.ok_or_else(|| "below every level that there is code for".into());
    finding("processor", level, "running on the processor")
}

/// Both code generators, the one that is there in every build first.
fn backends() -> [Finding; 2] {
    let choices = [
        ("Cranelift", BackendChoice::Cranelift),
        ("LLVM", BackendChoice::Llvm),
    ];
    choices.map(|(name, choice)| {
        let backend = choice.backend().map(|_| "built in".to_string());
        finding(name, backend.map_err(|e| e.to_string()), "--target cpu:…")
    })
}

fn nvrtc() -> Finding {
    const FOR: &str = "--target cuda:…, tune and train --device cuda";
    match Compiler::new() {
        Ok(compiler) => finding("NVRTC", Ok(String::new()), FOR).with(
            Some(compiler.describe()),
            Some(compiler.library().to_path_buf()),
        ),
        Err(error) => finding("NVRTC", Err(error.to_string()), FOR),
    }
}

fn disassembler() -> Finding {
    let missing = || "run scripts/setup-nvrtc, or install CUDA".to_string();
    let tool = nvdisasm();
    let found = tool.as_ref().map(|_| String::new()).ok_or_else(missing);
    finding("nvdisasm", found, "--emit sass").with(None, tool)
}

fn cublaslt() -> Finding {
    let found = rabitc_train::cuda::cublaslt().map(|()| String::new());
    let found = found.map_err(|e| e.to_string());
    finding("cuBLASLt", found, "train --device cuda")
}

/// The driver, and every device it has.
fn gpus() -> Vec<Finding> {
    const RUN: &str = "--device cuda";
    let installed = match installed() {
        Ok(installed) => installed,
        Err(error) => return vec![finding("CUDA driver", Err(error.to_string()), RUN)],
    };
    let (major, minor) = installed.version;
    let version = Some(format!("CUDA {major}.{minor}"));
    let driver = finding("CUDA driver", Ok(String::new()), RUN);
    let mut findings = vec![driver.with(version, None)];
    let devices = installed.devices.iter().enumerate();
    findings.extend(devices.map(|(n, d)| {
        let arch = Some(d.arch.to_string());
        finding("GPU", Ok(describe(n, d)), RUN).with(arch, None)
    }));
    if installed.devices.is_empty() {
        findings.push(finding("GPU", Err("the driver has no device".into()), RUN));
    }
    findings
}

fn describe(number: usize, device: &DeviceInfo) -> String {
    format!(
        "cuda:{number}, {}, {} multiprocessors, {} of memory, {} of L2 cache",
        device.name,
        device.multiprocessors,
        ui::size(device.memory as u64),
        ui::size(device.l2 as u64)
    )
}
