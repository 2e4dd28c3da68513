//! CPU levels: which instructions native code may use.
//!
//! The names are those of the artifact and of the command line. The x86-64 levels are those of the
//! System V psABI, each including the ones below it; `x86-64-v4-vnni` adds the byte dot products
//! and byte permutes that came after the psABI was written.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A CPU level. On one architecture every level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Level {
    /// `x86-64-v2`: SSE up to 4.2, SSSE3, POPCNT.
    X86V2,
    /// `x86-64-v3`: AVX2, FMA, F16C, BMI.
    X86V3,
    /// `x86-64-v4`: AVX-512 F, BW, CD, DQ, VL.
    X86V4,
    /// `x86-64-v4-vnni`: `x86-64-v4` with AVX-512 VNNI and VBMI.
    X86V4Vnni,
    /// `aarch64`: ARMv8-A with NEON.
    Aarch64,
    /// `aarch64-dotprod`: `aarch64` with the dot product instructions.
    Aarch64Dotprod,
}

/// A processor architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit Arm, little endian.
    Aarch64,
}

impl Arch {
    /// The name, as in a target triple.
    pub fn name(self) -> &'static str {
        match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        }
    }
}

/// What each level adds to the one below it, by the names that Rust and LLVM use.
const X86_V2: &[&str] = &["cx16", "popcnt", "sse3", "ssse3", "sse4.1", "sse4.2"];
const X86_V3: &[&str] = &[
    "avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe",
];
const X86_V4: &[&str] = &["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"];
const X86_V4_VNNI: &[&str] = &["avx512vnni", "avx512vbmi"];
const AARCH64: &[&str] = &["neon"];
const AARCH64_DOTPROD: &[&str] = &["dotprod"];

impl Level {
    /// All levels, within an architecture from the lowest to the highest.
    pub const ALL: [Level; 6] = [
        Level::X86V2,
        Level::X86V3,
        Level::X86V4,
        Level::X86V4Vnni,
        Level::Aarch64,
        Level::Aarch64Dotprod,
    ];

    /// The level's name.
    pub fn name(self) -> &'static str {
        match self {
            Level::X86V2 => "x86-64-v2",
            Level::X86V3 => "x86-64-v3",
            Level::X86V4 => "x86-64-v4",
            Level::X86V4Vnni => "x86-64-v4-vnni",
            Level::Aarch64 => "aarch64",
            Level::Aarch64Dotprod => "aarch64-dotprod",
        }
    }

    /// The architecture.
    pub fn arch(self) -> Arch {
        match self {
            Level::X86V2 | Level::X86V3 | Level::X86V4 | Level::X86V4Vnni => Arch::X86_64,
            Level::Aarch64 | Level::Aarch64Dotprod => Arch::Aarch64,
        }
    }

    /// The ISA features that code of this level may use, those of the levels below included, by
    /// LLVM's names (`"ssse3"`, `"avx512vl"`, `"bmi"` for BMI1, `"dotprod"`).
    pub fn features(self) -> Vec<&'static str> {
        let steps: &[&[&str]] = match self {
            Level::X86V2 => &[X86_V2],
            Level::X86V3 => &[X86_V2, X86_V3],
            Level::X86V4 => &[X86_V2, X86_V3, X86_V4],
            Level::X86V4Vnni => &[X86_V2, X86_V3, X86_V4, X86_V4_VNNI],
            Level::Aarch64 => &[AARCH64],
            Level::Aarch64Dotprod => &[AARCH64, AARCH64_DOTPROD],
        };
        steps.concat()
    }

    /// Whether the level has a fused multiply-add.
    pub fn has_fma(self) -> bool {
        self.arch() == Arch::Aarch64 || self.features().contains(&"fma")
    }

    /// Whether the level has instructions that add up products of four neighbouring bytes.
    pub fn has_byte_dot(self) -> bool {
        matches!(self, Level::X86V4Vnni | Level::Aarch64Dotprod)
    }

    /// Whether the level permutes the bytes of its widest vector over all of it.
    pub fn has_byte_permute(self) -> bool {
        self == Level::X86V4Vnni
    }

    /// Bytes of the widest vector register of the level. A backend may use less.
    pub fn widest_vector(self) -> usize {
        match self {
            Level::X86V2 | Level::Aarch64 | Level::Aarch64Dotprod => 16,
            Level::X86V3 => 32,
            Level::X86V4 | Level::X86V4Vnni => 64,
        }
    }

    /// Whether a machine of this level runs code generated for `other`.
    pub fn supports(self, other: Level) -> bool {
        self.arch() == other.arch() && self >= other
    }

    /// The highest level that this machine runs, or `None` if it runs none.
    pub fn native() -> Option<Level> {
        let runs = |level: &&Level| level.features().iter().all(|f| native_feature(f));
        Level::ALL
            .iter()
            .filter(|level| level.arch().name() == std::env::consts::ARCH)
            .take_while(runs)
            .last()
            .copied()
    }
}

/// Whether this machine has a feature and its operating system has enabled it.
#[cfg(target_arch = "x86_64")]
fn native_feature(name: &str) -> bool {
    use std::arch::is_x86_feature_detected as has;
    match name {
        "cx16" => has!("cmpxchg16b"),
        "popcnt" => has!("popcnt"),
        "sse3" => has!("sse3"),
        "ssse3" => has!("ssse3"),
        "sse4.1" => has!("sse4.1"),
        "sse4.2" => has!("sse4.2"),
        "avx" => has!("avx"),
        "avx2" => has!("avx2"),
        "bmi" => has!("bmi1"),
        "bmi2" => has!("bmi2"),
        "f16c" => has!("f16c"),
        "fma" => has!("fma"),
        "lzcnt" => has!("lzcnt"),
        "movbe" => has!("movbe"),
        "avx512f" => has!("avx512f"),
        "avx512bw" => has!("avx512bw"),
        "avx512cd" => has!("avx512cd"),
        "avx512dq" => has!("avx512dq"),
        "avx512vl" => has!("avx512vl"),
        "avx512vnni" => has!("avx512vnni"),
        "avx512vbmi" => has!("avx512vbmi"),
        _ => false,
    }
}

/// Whether this machine has a feature and its operating system has enabled it.
#[cfg(target_arch = "aarch64")]
fn native_feature(name: &str) -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    match name {
        "neon" => has!("neon"),
        "dotprod" => has!("dotprod"),
        _ => false,
    }
}

/// Kernels run on no other architecture.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn native_feature(_name: &str) -> bool {
    false
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Level, String> {
        let level = Level::ALL.into_iter().find(|level| level.name() == name);
        level.ok_or_else(|| {
            let known = Level::ALL.map(Level::name).join(", ");
            format!("unknown CPU level `{name}`; known are {known}")
        })
    }
}

impl From<Level> for String {
    fn from(level: Level) -> String {
        level.name().to_string()
    }
}

impl TryFrom<String> for Level {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        name.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_what_prints_them() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
        let error = "x86-64-v5".parse::<Level>().unwrap_err();
        assert!(error.contains("`x86-64-v5`") && error.contains("x86-64-v4-vnni"));
    }

    #[test]
    fn support_is_having_all_features() {
        for level in Level::ALL {
            for other in Level::ALL {
                let has = level.features();
                let contains = other.features().iter().all(|f| has.contains(f));
                assert_eq!(level.supports(other), contains, "{level} runs {other}");
            }
        }
    }

    #[test]
    fn every_feature_can_be_detected() {
        if let Some(native) = Level::native() {
            assert!(native.features().into_iter().all(native_feature));
            assert!(!native_feature("no-such-feature"));
        }
    }
}
