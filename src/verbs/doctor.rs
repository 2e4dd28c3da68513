//! `rabitc doctor`: what this machine has for compiling and running.

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
/// Names the CPU level, the code generator, the CUDA compiler (NVRTC), the CUDA driver and every
/// GPU, with versions and where they were found. Nothing that is missing is an error: it says what
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
    /// Version and place, or why it is not there.
    detail: String,
    /// What it is needed for.
    needed_for: &'static str,
}

/// Carries the verb out.
pub fn run(args: &Args) -> Result<()> {
    let mut findings = vec![cpu(), backend(), nvrtc(), disassembler()];
    findings.extend(gpus());
    if args.json {
        return ui::print_json(&findings);
    }
    let lines = findings.iter().map(|f| {
        let mark = if f.found { "found  " } else { "missing" };
        format!("{mark}  {}: {} ({})\n", f.name, f.detail, f.needed_for)
    });
    ui::print(&lines.collect::<String>())
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

fn backend() -> Finding {
    let backend = BackendChoice::Auto.backend().map(|b| b.name().to_string());
    finding(
        "code generator",
        backend.map_err(|e| e.to_string()),
        "--target cpu:…",
    )
}

fn nvrtc() -> Finding {
    let compiler = Compiler::new().map(|c| format!("{}, {}", c.describe(), c.library().display()));
    finding(
        "NVRTC",
        compiler.map_err(|e| e.to_string()),
        "--target cuda:…",
    )
}

fn disassembler() -> Finding {
    let tool = nvdisasm().map(|path| path.display().to_string());
    let tool = tool.ok_or_else(|| "run scripts/setup-nvrtc, or install CUDA".into());
    finding("nvdisasm", tool, "--emit sass")
}

/// The driver, and every device it has.
fn gpus() -> Vec<Finding> {
    const RUN: &str = "--device cuda";
    let installed = match installed() {
        Ok(installed) => installed,
        Err(error) => return vec![finding("CUDA driver", Err(error.to_string()), RUN)],
    };
    let (major, minor) = installed.version;
    let mut findings = vec![finding(
        "CUDA driver",
        Ok(format!("CUDA {major}.{minor}")),
        RUN,
    )];
    let devices = installed.devices.iter().enumerate();
    findings.extend(devices.map(|(n, d)| finding("GPU", Ok(describe(n, d)), RUN)));
    if installed.devices.is_empty() {
        findings.push(finding("GPU", Err("the driver has no device".into()), RUN));
    }
    findings
}

fn describe(number: usize, device: &DeviceInfo) -> String {
    format!(
        "cuda:{number}, {}, {}, {} multiprocessors, {} of memory, {} of L2 cache",
        device.name,
        device.arch,
        device.multiprocessors,
        ui::size(device.memory as u64),
        ui::size(device.l2 as u64)
    )
}
