//! Which instruction set level this CPU has, by the names used in artifacts and on the command line.
//!
//! The x86-64 levels are those of the System V psABI; each includes the ones below it. Levels of
//! different architectures never include one another.

use crate::error::Error;
use std::fmt;
use std::str::FromStr;

/// An instruction set that kernels are generated for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    /// Whether a machine of this level runs code generated for `other`.
    pub fn supports(self, other: Level) -> bool {
        let (architecture, rank) = self.place();
        let (other_architecture, other_rank) = other.place();
        architecture == other_architecture && rank >= other_rank
    }

    /// The architecture, and the rank within it.
    fn place(self) -> (&'static str, u8) {
        match self {
            Level::X86V2 => ("x86_64", 2),
            Level::X86V3 => ("x86_64", 3),
            Level::X86V4 => ("x86_64", 4),
            Level::X86V4Vnni => ("x86_64", 5),
            Level::Aarch64 => ("aarch64", 0),
            Level::Aarch64Dotprod => ("aarch64", 1),
        }
    }

    /// The highest of the levels on offer that a machine of this level runs.
    ///
    /// # Errors
    /// None of them does; the error names this level and those on offer.
    pub fn best_of(self, offered: &[Level]) -> Result<Level, Error> {
        let fitting = offered.iter().filter(|&&level| self.supports(level));
        fitting
            .copied()
            .max_by_key(|level| level.place().1)
            .ok_or_else(|| Error::NoLevelFits {
                machine: self,
                offered: list(offered),
            })
    }
}

impl PartialOrd for Level {
    /// Levels of different architectures are not ordered.
    fn partial_cmp(&self, other: &Level) -> Option<std::cmp::Ordering> {
        let ((architecture, rank), (other_architecture, other_rank)) =
            (self.place(), other.place());
        (architecture == other_architecture).then(|| rank.cmp(&other_rank))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Level {
    type Err = Error;

    fn from_str(name: &str) -> Result<Level, Error> {
        let level = Level::ALL.into_iter().find(|level| level.name() == name);
        level.ok_or_else(|| Error::UnknownCpuLevel {
            name: name.to_owned(),
            known: list(&Level::ALL),
        })
    }
}

/// The highest level of this machine. Features that the operating system has not enabled do not
/// count.
///
/// # Errors
/// A CPU below every level, or of another architecture.
pub fn detect() -> Result<Level, Error> {
    highest().ok_or_else(|| Error::UnsupportedCpu {
        arch: std::env::consts::ARCH,
        known: list(&Level::ALL),
    })
}

#[cfg(target_arch = "x86_64")]
fn highest() -> Option<Level> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("cmpxchg16b")
        && has!("popcnt")
        && has!("sse3")
        && has!("ssse3")
        && has!("sse4.1")
        && has!("sse4.2");
    let v3 = has!("avx")
        && has!("avx2")
        && has!("bmi1")
        && has!("bmi2")
        && has!("f16c")
        && has!("fma")
        && has!("lzcnt")
        && has!("movbe");
    let v4 = has!("avx512f")
        && has!("avx512bw")
        && has!("avx512cd")
        && has!("avx512dq")
        && has!("avx512vl");
    let vnni = has!("avx512vnni") && has!("avx512vbmi");
    climb(&[
        (v2, Level::X86V2),
        (v3, Level::X86V3),
        (v4, Level::X86V4),
        (vnni, Level::X86V4Vnni),
    ])
}

#[cfg(target_arch = "aarch64")]
fn highest() -> Option<Level> {
    use std::arch::is_aarch64_feature_detected as has;
    climb(&[
        (has!("neon"), Level::Aarch64),
        (has!("dotprod"), Level::Aarch64Dotprod),
    ])
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn highest() -> Option<Level> {
    None
}

/// The last level reached before the first one whose features are missing.
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    allow(dead_code)
)]
fn climb(steps: &[(bool, Level)]) -> Option<Level> {
    let reached = steps.iter().take_while(|(present, _)| *present);
    reached.last().map(|&(_, level)| level)
}

/// The names of levels, separated by commas.
fn list(levels: &[Level]) -> String {
    let names: Vec<_> = levels.iter().map(|level| level.name()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse_to_what_prints_them() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse::<Level>().unwrap(), level);
        }
        let error = "x86-64-v5".parse::<Level>().unwrap_err().to_string();
        assert!(error.contains("\"x86-64-v5\"") && error.contains("x86-64-v4-vnni"));
    }

    #[test]
    fn a_level_supports_itself_and_those_below_in_its_architecture() {
        use Level::*;
        let chains: [&[Level]; 2] = [
            &[X86V2, X86V3, X86V4, X86V4Vnni],
            &[Aarch64, Aarch64Dotprod],
        ];
        for (c, chain) in chains.iter().enumerate() {
            for (d, other_chain) in chains.iter().enumerate() {
                for (i, level) in chain.iter().enumerate() {
                    for (j, other) in other_chain.iter().enumerate() {
                        assert_eq!(level.supports(*other), c == d && i >= j);
                        let order = (c == d).then(|| i.cmp(&j));
                        assert_eq!(level.partial_cmp(other), order);
                    }
                }
            }
        }
    }

    #[test]
    fn the_best_level_on_offer_is_the_highest_that_fits() {
        use Level::*;
        let offered = [X86V4, Aarch64Dotprod, X86V2, X86V3];
        assert_eq!(X86V3.best_of(&offered).unwrap(), X86V3);
        assert_eq!(X86V4Vnni.best_of(&offered).unwrap(), X86V4);
        let error = X86V2.best_of(&[X86V4, X86V3]).unwrap_err().to_string();
        assert_eq!(
            error,
            "this CPU has level x86-64-v2, but code is there only for x86-64-v4, x86-64-v3"
        );
        assert!(Aarch64.best_of(&offered).is_err());
    }

    #[test]
    fn climbing_stops_at_the_first_gap() {
        use Level::*;
        assert_eq!(climb(&[(false, X86V2), (true, X86V3)]), None);
        assert_eq!(
            climb(&[(true, X86V2), (false, X86V3), (true, X86V4)]),
            Some(X86V2)
        );
        assert_eq!(climb(&[(true, X86V2), (true, X86V3)]), Some(X86V3));
    }

    #[test]
    #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
    fn detection_agrees_with_the_kernel() {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap();
        let flags = info.lines().find(|line| line.starts_with("flags")).unwrap();
        let has = |flag| flags.split_whitespace().any(|f| f == flag);
        let level = detect().unwrap();
        assert_eq!(level.supports(Level::X86V3), has("avx2") && has("fma"));
        assert_eq!(
            level.supports(Level::X86V4),
            has("avx512bw") && has("avx512vl")
        );
        assert_eq!(
            level.supports(Level::X86V4Vnni),
            has("avx512_vnni") && has("avx512vbmi")
        );
    }
}
