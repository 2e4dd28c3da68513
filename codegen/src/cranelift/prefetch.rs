//! Prefetches, which CLIF does not have.
//!
//! A prefetch goes through Cranelift as a one-byte load whose result nobody uses, marked with a
//! trap code of its own. Cranelift keeps it, for a load that may trap has an effect, and records
//! where in the code it stands. Afterwards the instruction there is rewritten into the prefetch
//! with the same address operand, which has the same length on x86-64 and on aarch64 alike.

use crate::kir::Cache;
use crate::level::Arch;
use cranelift_codegen::MachTrap;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, TrapCode, Value, types};
use cranelift_frontend::FunctionBuilder;

/// Marks the loads that stand for prefetches.
const MARKS: [(TrapCode, Cache); 2] = [
    (TrapCode::unwrap_user(1), Cache::L1),
    (TrapCode::unwrap_user(2), Cache::L2),
];

/// Emits the load that stands for a prefetch.
pub(super) fn mark(builder: &mut FunctionBuilder<'_>, cache: Cache, ptr: Value, offset: i32) {
    let mark = MARKS
        .iter()
        .find(|(_, c)| *c == cache)
        .map(|(code, _)| *code);
    let flags = MemFlagsData::new().with_trap_code(mark);
    builder.ins().uload8(types::I64, flags, ptr, offset);
}

/// Offset and kind of every marked load, in the order of the code.
fn marked(traps: &[MachTrap]) -> Vec<(usize, Cache)> {
    let cache = |trap: &MachTrap| MARKS.iter().find(|(code, _)| *code == trap.code);
    let found = traps
        .iter()
        .filter_map(|t| cache(t).map(|(_, c)| (t.offset as usize, *c)));
    let mut marked: Vec<_> = found.collect();
    marked.sort_by_key(|(at, _)| *at);
    marked
}

/// Rewrites the marked loads in `code` into prefetches.
///
/// # Errors
/// A marked place with something else than the load; a defect of this file.
pub(super) fn rewrite(code: &mut [u8], traps: &[MachTrap], arch: Arch) -> Result<(), String> {
    for (at, cache) in marked(traps) {
        let rewritten = code.get_mut(at..).and_then(|code| match arch {
            Arch::X86_64 => rewrite_x86(code, cache),
            Arch::Aarch64 => rewrite_aarch64(code, cache),
        });
        rewritten.ok_or_else(|| format!("there is no load to make a prefetch of at {at:#x}"))?;
    }
    Ok(())
}

/// The same for the disassembly: loads of one byte without a sign stand for nothing else.
pub(super) fn rewrite_text(asm: &str, traps: &[MachTrap], arch: Arch) -> String {
    let mut text = String::with_capacity(asm.len());
    let mut caches = marked(traps).into_iter().map(|(_, cache)| cache).peekable();
    for line in asm.lines() {
        let cache = caches.peek().copied().unwrap_or(Cache::L1);
        let rewritten = match arch {
            Arch::X86_64 => text_x86(line, cache),
            Arch::Aarch64 => text_aarch64(line, cache),
        };
        if rewritten.is_some() {
            caches.next();
        }
        text.push_str(rewritten.as_deref().unwrap_or(line));
        text.push('\n');
    }
    text
}

fn text_x86(line: &str, cache: Cache) -> Option<String> {
    let (address, _) = line.strip_prefix("  movzbq ")?.rsplit_once(", ")?;
    let is_memory = address.ends_with(')');
    let level = match cache {
        Cache::L1 => 0,
        Cache::L2 => 1,
    };
    is_memory.then(|| format!("  prefetcht{level} {address}"))
}

fn text_aarch64(line: &str, cache: Cache) -> Option<String> {
    let load = line
        .strip_prefix("  ldrb ")
        .or_else(|| line.strip_prefix("  ldurb "));
    let (_, address) = load?.split_once(", ")?;
    let level = match cache {
        Cache::L1 => 1,
        Cache::L2 => 2,
    };
    Some(format!("  prfm pldl{level}keep, {address}"))
}

/// `movzx r64, byte [address]` to `prefetcht0 [address]` or `prefetcht1`: the second opcode byte and the register
/// field change, and the prefix bits that belong to the register go.
fn rewrite_x86(code: &mut [u8], cache: Cache) -> Option<()> {
    const REX: u8 = 0x40;
    const REX_W_AND_R: u8 = 0x0c;
    let hint: u8 = match cache {
        Cache::L1 => 1,
        Cache::L2 => 2,
    };
    let prefixed = *code.first()? & 0xf0 == REX;
    let opcode = usize::from(prefixed);
    let [0x0f, second, modrm] = code.get_mut(opcode..opcode + 3)? else {
        return None;
    };
    let is_register = *modrm & 0xc0 == 0xc0;
    if *second != 0xb6 || is_register {
        return None;
    }
    *second = 0x18;
    *modrm = (*modrm & 0xc7) | hint << 3;
    if prefixed {
        code[0] &= !REX_W_AND_R;
    }
    Some(())
}

/// `ldrb` to `prfm pldl1keep` or `pldl2keep` in each of its address forms: the scaled offset, which `prfm` counts
/// in eights, the unscaled offset, and the register offset, which `ldrb` does not scale.
fn rewrite_aarch64(code: &mut [u8], cache: Cache) -> Option<()> {
    let word: &mut [u8; 4] = code.first_chunk_mut()?;
    let load = u32::from_le_bytes(*word);
    let base = load & 0x3e0;
    let prefetch = if load & 0xffc0_0000 == 0x3940_0000 {
        let offset = (load >> 10) & 0xfff;
        0xf980_0000 | ((offset / 8) << 10) | base
    } else if load & 0xffe0_0c00 == 0x3840_0000 {
        0xf880_0000 | (load & 0x001f_f000) | base
    } else if load & 0xffe0_0c00 == 0x3860_0800 {
        0xf8a0_0800 | (load & 0x001f_e000) | base
    } else {
        return None;
    };
    let operation = match cache {
        Cache::L1 => 0,
        Cache::L2 => 2,
    };
    *word = (prefetch | operation).to_le_bytes();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn x86(code: &[u8]) -> Option<Vec<u8>> {
        let mut code = code.to_vec();
        rewrite_x86(&mut code, Cache::L1).map(|()| code)
    }

    #[test]
    fn x86_loads_become_prefetches_of_the_same_address() {
        // movzx rax, byte [rdi + 0x2000] and movzx r9, byte [r8 + r15 + 0x10], as assembled.
        let near = x86(&[0x48, 0x0f, 0xb6, 0x87, 0, 0x20, 0, 0]);
        assert_eq!(near, Some(vec![0x40, 0x0f, 0x18, 0x8f, 0, 0x20, 0, 0]));
        let indexed = x86(&[0x4f, 0x0f, 0xb6, 0x4c, 0x38, 0x10]);
        assert_eq!(indexed, Some(vec![0x43, 0x0f, 0x18, 0x4c, 0x38, 0x10]));
        let bare = x86(&[0x0f, 0xb6, 0x0f]);
        assert_eq!(bare, Some(vec![0x0f, 0x18, 0x0f]));
        let mut far = [0x0f, 0xb6, 0x0f];
        rewrite_x86(&mut far, Cache::L2).unwrap();
        assert_eq!(far, [0x0f, 0x18, 0x17]);
    }

    #[test]
    fn x86_other_instructions_are_refused() {
        // A move between registers, a 16-bit load, a cut instruction, nothing.
        for code in [
            &[0x0f, 0xb6, 0xc1][..],
            &[0x0f, 0xb7, 0x07],
            &[0x48, 0x0f],
            &[],
        ] {
            assert_eq!(x86(code), None, "{code:x?}");
        }
    }

    #[test]
    fn aarch64_loads_become_prefetches_of_the_same_address() {
        let rewrite = |load: u32, cache| {
            let mut code = load.to_le_bytes();
            rewrite_aarch64(&mut code, cache).map(|()| u32::from_le_bytes(code))
        };
        // ldrb w9, [x3, #64]; ldurb w9, [x3, #-8]; ldrb w9, [x3, x4]
        let l1 = |load| rewrite(load, Cache::L1);
        assert_eq!(l1(0x3941_0069), Some(0xf980_2060));
        assert_eq!(l1(0x385f_8069), Some(0xf89f_8060));
        assert_eq!(l1(0x3864_6869), Some(0xf8a4_6860));
        assert_eq!(l1(0xd503_201f), None);
        assert_eq!(rewrite(0x3941_0069, Cache::L2), Some(0xf980_2062));
    }
}
