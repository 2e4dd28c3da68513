//! What a measurement depends on besides the layer: processor, code generator, threads.

use anyhow::{Result, bail};
use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::kernels::rb_product::RbProduct;
use rabitc_codegen::kernels::rb_tables::Tables;
use rabitc_codegen::kernels::{Float, Spec};
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::residual_binary::Activations;
use rabitc_rbx::Level;
use serde::{Deserialize, Serialize};

/// What a measurement depends on besides the layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The processor's name and model numbers.
    pub cpu: String,
    /// This program's version, and a hash of the code that it generates for products.
    pub generator: String,
    /// The backend.
    pub backend: String,
    /// The CPU level of the code.
    pub level: Level,
    /// Threads that compute together.
    pub threads: usize,
}

impl Host {
    /// This machine with code of `backend` for `level`.
    ///
    /// # Errors
    /// A level that this machine does not run, or a backend that does not have it.
    pub fn new(
        backend: &dyn Backend,
        level: Level,
        activations: Activations,
        threads: usize,
    ) -> Result<Host> {
        if !runs(level) {
            bail!("this machine does not run code for {level}");
        }
        Ok(Host {
            cpu: cpu(),
            generator: generator(backend, level, activations)?,
            backend: backend.name().to_owned(),
            level,
            threads,
        })
    }
}

/// Whether this machine runs code of a level.
pub fn runs(level: Level) -> bool {
    Level::native().is_some_and(|native| native.supports(level))
}

/// The tables that a format of activations stands for.
///
/// # Errors
/// The format that stands for none being chosen.
pub fn tables(activations: Activations) -> Result<Tables> {
    Ok(match activations {
        Activations::Int8 => Tables::Int8,
        Activations::Int16 => Tables::Int16,
        Activations::F32 => Tables::F32,
        Activations::Unset => bail!("no format of activations is chosen"),
    })
}

/// Version of this program and a hash of what it makes of a small layer. A version number alone
/// would not do: kernels change between versions, and nothing makes people count those changes.
fn generator(backend: &dyn Backend, level: Level, activations: Activations) -> Result<String> {
    let mut hash = blake3::Hasher::new();
    for tokens in [1, 32] {
        let spec = RbProduct {
            layout: SignLayout {
                d_in: 1000,
                paths: 2,
                segments: vec![100],
                row_tiles: 2,
            },
            tables: tables(activations)?,
            g: Float::F16,
            residual: None,
            tokens,
        };
        let kernel = spec.build(backend.vectors(level));
        let object = backend.compile(&kernel, level, Options::default())?;
        hash.update(&object.code);
    }
    let hash = hash.finalize().to_hex();
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!("rabitc {version}, kernels {}", &hash[..16]))
}

/// The processor, as far as the system tells.
pub fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    describe(&info).unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH))
}

/// Name and numbers of the first processor of a `/proc/cpuinfo`. Virtual machines often have a
/// name that says little, and Arm has numbers only.
fn describe(info: &str) -> Option<String> {
    let first = info.split("\n\n").next()?;
    let value = |key: &str| {
        let mut lines = first.lines().filter_map(|line| line.split_once(':'));
        let (_, value) = lines.find(|(k, _)| k.trim() == key)?;
        Some(value.trim())
    };
    let numbers = |keys: &[&str]| {
        let found = keys
            .iter()
            .filter_map(|k| Some(format!("{k} {}", value(k)?)));
        found.collect::<Vec<_>>().join(", ")
    };
    match value("model name") {
        Some(name) => {
            let numbers = numbers(&["cpu family", "model", "stepping"]);
            Some(match numbers.is_empty() {
                true => name.to_owned(),
                false => format!("{name} ({numbers})"),
            })
        }
        None => {
            let numbers = numbers(&["CPU implementer", "CPU part", "CPU variant"]);
            (!numbers.is_empty()).then_some(numbers)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rabitc_codegen::cranelift::Cranelift;

    #[test]
    fn processors_are_told_apart() {
        let x86 = "processor\t: 0\ncpu family\t: 6\nmodel\t\t: 143\n\
                   model name\t: Intel(R) Xeon(R) Processor\nstepping\t: 8\n\nprocessor\t: 1\n";
        let name = "Intel(R) Xeon(R) Processor (cpu family 6, model 143, stepping 8)";
        assert_eq!(describe(x86).as_deref(), Some(name));
        let arm = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n";
        let name = "CPU implementer 0x41, CPU part 0xd0c";
        assert_eq!(describe(arm).as_deref(), Some(name));
        assert_eq!(describe(""), None);
    }

    #[test]
    fn the_generator_is_known_by_its_code() {
        let of = |level, a| generator(&Cranelift, level, a).unwrap();
        let first = of(Level::X86V3, Activations::Int8);
        assert!(first.starts_with(concat!("rabitc ", env!("CARGO_PKG_VERSION"))));
        assert_eq!(first, of(Level::X86V3, Activations::Int8));
        assert_ne!(first, of(Level::X86V3, Activations::F32));
        assert_ne!(first, of(Level::X86V2, Activations::Int8));
    }
}
