//! Cranelift's settings for each level.

use crate::level::{Arch, Level};
use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable, SetError};

/// Settings that no level changes.
///
/// `opt_level` is none on purpose. Cranelift's optimiser takes the pure instructions of a block
/// apart and computes each just before its first use by a load, a store or a branch. What feeds an
/// accumulator is then computed at the end of the block, after all of its loads, whatever order
/// the kernel was written in, and an unrolled loop body runs out of registers. Without it,
/// instructions stay in the kernel's order; [`super::prepare`] does what remains worth doing
/// (folding, sharing, hoisting) on the kernel IR, and instruction selection and register
/// allocation are the same.
const SHARED: &[(&str, &str)] = &[
    ("opt_level", "none"),
    ("is_pic", "true"),
    ("enable_probestack", "false"),
    ("unwind_info", "false"),
    ("enable_verifier", "true"),
];

/// The code generator for a level.
///
/// # Errors
/// Cranelift's message: a build without the architecture, a setting that it does not know.
pub(super) fn for_level(level: Level) -> Result<OwnedTargetIsa, String> {
    let mut shared = settings::builder();
    for (name, value) in SHARED {
        shared.set(name, value).map_err(|e| set_error(name, &e))?;
    }
    let triple = match level.arch() {
        Arch::X86_64 => "x86_64-unknown-linux-gnu",
        Arch::Aarch64 => "aarch64-unknown-linux-gnu",
    };
    let mut builder = isa::lookup_by_name(triple).map_err(|e| e.to_string())?;
    for feature in level.features() {
        if let Some(name) = setting(feature) {
            builder.enable(name).map_err(|e| set_error(name, &e))?;
        }
    }
    builder
        .finish(settings::Flags::new(shared))
        .map_err(|e| e.to_string())
}

fn set_error(name: &str, error: &SetError) -> String {
    format!("setting {name}: {error}")
}

/// Cranelift's name of a feature, if it makes a difference to Cranelift.
fn setting(feature: &str) -> Option<&'static str> {
    Some(match feature {
        "cx16" => "has_cmpxchg16b",
        "popcnt" => "has_popcnt",
        "sse3" => "has_sse3",
        "ssse3" => "has_ssse3",
        "sse4.1" => "has_sse41",
        "sse4.2" => "has_sse42",
        "avx" => "has_avx",
        "avx2" => "has_avx2",
        "bmi" => "has_bmi1",
        "bmi2" => "has_bmi2",
        "fma" => "has_fma",
        "lzcnt" => "has_lzcnt",
        "avx512f" => "has_avx512f",
        "avx512dq" => "has_avx512dq",
        "avx512vl" => "has_avx512vl",
        "avx512vnni" => "has_avx512vnni",
        "avx512vbmi" => "has_avx512vbmi",
        "dotprod" => "has_dotprod",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_its_features() {
        for level in Level::ALL {
            let isa = for_level(level).unwrap();
            let enabled: Vec<_> = isa
                .isa_flags()
                .iter()
                .filter(|value| value.as_bool() == Some(true))
                .map(|value| value.name)
                .collect();
            let wanted: Vec<_> = level.features().into_iter().filter_map(setting).collect();
            for name in &wanted {
                assert!(enabled.contains(name), "{level} lacks {name}");
            }
            assert_eq!(enabled.len(), wanted.len(), "{level}: {enabled:?}");
        }
    }
}
