//! CPU levels: which instructions a kernel may use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A CPU level. On one architecture every level includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Level {
    /// SSSE3, SSE4.2, POPCNT.
    X86V2,
    /// AVX2, FMA, BMI1, BMI2, F16C, LZCNT.
    X86V3,
    /// AVX-512 F, BW, CD, DQ, VL.
    X86V4,
    /// AVX-512 VNNI and VBMI.
    X86V4Vnni,
    /// ARMv8-A with NEON.
    Aarch64,
    /// NEON dot products.
    Aarch64Dotprod,
}

impl Level {
    /// Every level.
    pub const ALL: [Level; 6] = [
        Level::X86V2,
        Level::X86V3,
        Level::X86V4,
        Level::X86V4Vnni,
        Level::Aarch64,
        Level::Aarch64Dotprod,
    ];

    /// The name on the command line and in manifests.
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

    /// Whether this is a level of x86-64.
    pub fn is_x86(self) -> bool {
        self <= Level::X86V4Vnni
    }

    /// Whether a machine of this level runs code made for `code`.
    pub fn runs(self, code: Level) -> bool {
        self.is_x86() == code.is_x86() && code <= self
    }

    /// The level of the machine that this program runs on, `None` if it is below every level.
    pub fn native() -> Option<Level> {
        native()
    }
}

#[cfg(target_arch = "x86_64")]
fn native() -> Option<Level> {
    macro_rules! has {
        ($($feature:tt),*) => { $(std::arch::is_x86_feature_detected!($feature))&&* };
    }
    if !has!("ssse3", "sse4.1", "sse4.2", "popcnt") {
        return None;
    }
    if !has!("avx2", "fma", "bmi1", "bmi2", "f16c", "lzcnt") {
        return Some(Level::X86V2);
    }
    if !has!("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl") {
        return Some(Level::X86V3);
    }
    match has!("avx512vnni", "avx512vbmi") {
        true => Some(Level::X86V4Vnni),
        false => Some(Level::X86V4),
    }
}

#[cfg(target_arch = "aarch64")]
fn native() -> Option<Level> {
    match std::arch::is_aarch64_feature_detected!("dotprod") {
        true => Some(Level::Aarch64Dotprod),
        false => Some(Level::Aarch64),
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn native() -> Option<Level> {
    None
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = Level::ALL.into_iter().find(|l| l.name() == s);
        found.ok_or_else(|| {
            let names: Vec<_> = Level::ALL.iter().map(|l| l.name()).collect();
            format!("unknown CPU level `{s}`; the levels are {}", names.join(", "))
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
    fn try_from(s: String) -> Result<Self, String> {
        s.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_nest_within_an_architecture_only() {
        assert!(Level::X86V4Vnni.runs(Level::X86V2));
        assert!(!Level::X86V2.runs(Level::X86V3));
        assert!(Level::Aarch64Dotprod.runs(Level::Aarch64));
        assert!(!Level::Aarch64Dotprod.runs(Level::X86V2));
        assert!(!Level::X86V4Vnni.runs(Level::Aarch64));
        for level in Level::ALL {
            assert_eq!(level.name().parse(), Ok(level));
        }
    }
}
