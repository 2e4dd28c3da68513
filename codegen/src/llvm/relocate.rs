//! Relocations: references from one place of a blob to another, independent of where it is
//! loaded.

use crate::level::Arch;
use object::elf::RelocationType;
use object::{RelocationFlags, elf};

/// Resolves one reference, from `at` to `target`, both offsets in the blob.
///
/// # Errors
/// A kind that depends on where the blob is loaded, or is not known here; a place too far away.
pub(super) fn apply(
    blob: &mut [u8],
    arch: Arch,
    at: u64,
    flags: RelocationFlags,
    target: u64,
) -> Result<(), String> {
    let distance = target.wrapping_sub(at) as i64;
    let RelocationFlags::Elf { r_type } = flags else {
        return Err("a relocation that is not of an ELF file".to_owned());
    };
    let place = usize::try_from(at).ok().and_then(|at| blob.get_mut(at..));
    let word = place.and_then(|place| place.first_chunk_mut::<4>());
    let word = word.ok_or("a relocation outside its section")?;
    let resolved = match arch {
        Arch::X86_64 => x86(r_type, distance)?,
        Arch::Aarch64 => aarch64(r_type, u32::from_le_bytes(*word), distance)?,
    };
    let resolved = resolved.ok_or("a place too far away")?;
    *word = resolved.to_le_bytes();
    Ok(())
}

/// The word at the place, or none where the distance does not fit.
fn x86(kind: RelocationType, distance: i64) -> Result<Option<u32>, String> {
    match kind {
        elf::R_X86_64_PC32 | elf::R_X86_64_PLT32 => {
            Ok(i32::try_from(distance).ok().map(|distance| distance as u32))
        }
        _ => Err(format!("an address by relocation {}", kind.0)),
    }
}

/// The instruction at the place with its operand filled in, or none where the distance does not
/// fit. Kinds that count in pages of memory are not among them: a blob may lie anywhere in a page.
fn aarch64(kind: RelocationType, word: u32, distance: i64) -> Result<Option<u32>, String> {
    let field = |bits: u32, scale: i64| {
        let units = distance / scale;
        let fits = distance % scale == 0 && units >> (bits - 1) == units >> 63;
        fits.then_some(units as u32 & ((1 << bits) - 1))
    };
    match kind {
        // `ldr` of what lies at a distance in words.
        elf::R_AARCH64_LD_PREL_LO19 => Ok(field(19, 4).map(|x| word & !(0x7_ffff << 5) | x << 5)),
        // `adr`, whose two lowest bits stand apart from the others.
        elf::R_AARCH64_ADR_PREL_LO21 => Ok(field(21, 1).map(|x| {
            let cleared = word & !(3 << 29 | 0x7_ffff << 5);
            cleared | (x & 3) << 29 | (x >> 2) << 5
        })),
        elf::R_AARCH64_CALL26 | elf::R_AARCH64_JUMP26 => {
            Ok(field(26, 4).map(|x| word & !0x3ff_ffff | x))
        }
        _ => Err(format!("an address by relocation {}", kind.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(
        arch: Arch,
        kind: RelocationType,
        word: u32,
        at: u64,
        target: u64,
    ) -> Result<u32, String> {
        let mut blob = vec![0; 8];
        blob[4..].copy_from_slice(&word.to_le_bytes());
        let mut long = vec![0; at as usize - 4];
        long.extend(blob);
        let flags = RelocationFlags::Elf { r_type: kind };
        apply(&mut long, arch, at, flags, target)?;
        Ok(u32::from_le_bytes(
            [0, 1, 2, 3].map(|i| long[at as usize + i]),
        ))
    }

    #[test]
    fn x86_distances_are_relative_to_the_place() {
        let pc32 = |target| word(Arch::X86_64, elf::R_X86_64_PC32, 0, 12, target);
        assert_eq!(pc32(64), Ok(52));
        assert_eq!(pc32(4), Ok(-8i32 as u32));
        assert!(pc32(1 << 40).unwrap_err().contains("too far"));
    }

    #[test]
    fn aarch64_operands_are_filled_in() {
        let lo19 = |target| {
            word(
                Arch::Aarch64,
                elf::R_AARCH64_LD_PREL_LO19,
                0x9c00_0005,
                8,
                target,
            )
        };
        // ldr q5, #64 and ldr q5, #-8
        assert_eq!(lo19(72), Ok(0x9c00_0205));
        assert_eq!(lo19(0), Ok(0x9cff_ffc5));
        assert!(lo19(74).is_err() && lo19(8 + (1 << 20)).is_err());
        // adr x3, #67
        let lo21 = word(
            Arch::Aarch64,
            elf::R_AARCH64_ADR_PREL_LO21,
            0x1000_0003,
            8,
            75,
        );
        assert_eq!(lo21, Ok(0x7000_0203));
        // b #-4
        let jump = word(Arch::Aarch64, elf::R_AARCH64_JUMP26, 0x1400_0000, 8, 4);
        assert_eq!(jump, Ok(0x17ff_ffff));
    }

    #[test]
    fn addresses_are_refused() {
        for (arch, kind) in [
            (Arch::X86_64, elf::R_X86_64_64),
            (Arch::X86_64, elf::R_X86_64_GOTPCREL),
            (Arch::Aarch64, elf::R_AARCH64_ADR_PREL_PG_HI21),
            (Arch::Aarch64, elf::R_AARCH64_ABS64),
        ] {
            let error = word(arch, kind, 0, 8, 64).unwrap_err();
            assert!(error.contains("an address"), "{error}");
        }
    }
}
