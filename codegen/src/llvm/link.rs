//! From an object file to a blob that stands alone: code first, constants after it, every
//! reference resolved.

use super::relocate;
use crate::error::CodegenError;
use crate::level::Arch;
use object::read::elf::{ElfFile64, ElfSection64};
use object::{
    Endianness, Object, ObjectSection, ObjectSymbol, RelocationTarget, SectionFlags, SectionIndex,
    elf,
};
use std::collections::HashMap;

/// Constants begin at a multiple of this; blobs are loaded at one; see
/// [`crate::backend::Object::code`].
const ALIGN: u64 = 64;

type File<'a> = ElfFile64<'a, Endianness>;
type Section<'a, 'f> = ElfSection64<'a, 'f, Endianness>;

/// The blob of kernel `name`.
///
/// # Errors
/// What the code refers to outside itself, data that would have to be writable, anything that
/// would not be right at another address.
pub(super) fn link(name: &str, arch: Arch, object: &[u8]) -> Result<Vec<u8>, CodegenError> {
    linked(name, arch, object).map_err(|symbol| CodegenError::ExternalSymbol {
        kernel: name.to_owned(),
        symbol,
    })
}

fn linked(name: &str, arch: Arch, object: &[u8]) -> Result<Vec<u8>, String> {
    let file = File::parse(object).map_err(|e| format!("an unreadable object file ({e})"))?;
    let sections = chosen(&file)?;
    let (places, mut blob) = place(&sections)?;
    entry_is_first(name, &file, &places)?;
    for section in &sections {
        let start = places[&section.index()];
        for (offset, relocation) in section.relocations() {
            let target = target_of(&file, &places, relocation.target())?;
            let target = target.wrapping_add_signed(relocation.addend());
            let at = start + offset;
            relocate::apply(&mut blob, arch, at, relocation.flags(), target)
                .map_err(|what| format!("{what}, at {at:#x}"))?;
        }
    }
    Ok(blob)
}

/// The sections that belong into the blob, code first.
fn chosen<'a, 'f>(file: &'f File<'a>) -> Result<Vec<Section<'a, 'f>>, String> {
    let (mut code, mut constants) = (Vec::new(), Vec::new());
    for section in file.sections() {
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        if !sh_flags.contains(elf::SHF_ALLOC) || section.size() == 0 {
            continue;
        }
        let name = section.name().map_err(|e| e.to_string())?;
        if sh_flags.contains(elf::SHF_WRITE) {
            return Err(format!("the writable section {name}"));
        }
        match name {
            _ if name.starts_with(".text") => code.push(section),
            _ if name.starts_with(".rodata") => constants.push(section),
            // Tables for unwinding, which nothing does through a kernel.
            ".eh_frame" => {}
            _ => return Err(format!("the section {name}")),
        }
    }
    code.append(&mut constants);
    Ok(code)
}

/// Where each section begins in the blob, and the blob before its references are resolved.
fn place(sections: &[Section]) -> Result<(HashMap<SectionIndex, u64>, Vec<u8>), String> {
    let (mut places, mut blob) = (HashMap::new(), Vec::new());
    for section in sections {
        if section.align() > ALIGN {
            let align = section.align();
            return Err(format!("its own address, at a multiple of {align}"));
        }
        blob.resize(blob.len().next_multiple_of(ALIGN as usize), 0);
        places.insert(section.index(), blob.len() as u64);
        blob.extend(section.data().map_err(|e| e.to_string())?);
    }
    Ok((places, blob))
}

fn entry_is_first(
    name: &str,
    file: &File,
    places: &HashMap<SectionIndex, u64>,
) -> Result<(), String> {
    let symbol = file.symbols().find(|symbol| symbol.name() == Ok(name));
    let symbol = symbol.ok_or("an entry point that is not there")?;
    let section = symbol.section_index().and_then(|index| places.get(&index));
    match section.map(|start| start + symbol.address()) {
        Some(0) => Ok(()),
        _ => Err("an entry point that is not its first byte".to_owned()),
    }
}

/// The place in the blob that a relocation means, without its addend.
fn target_of(
    file: &File,
    places: &HashMap<SectionIndex, u64>,
    target: RelocationTarget,
) -> Result<u64, String> {
    let RelocationTarget::Symbol(index) = target else {
        return Err("an absolute address".to_owned());
    };
    let symbol = file.symbol_by_index(index).map_err(|e| e.to_string())?;
    let name = || {
        symbol
            .name()
            .unwrap_or("a symbol without a name")
            .to_owned()
    };
    let section = symbol.section_index().ok_or_else(name)?;
    let start = places.get(&section).ok_or_else(name)?;
    Ok(start + symbol.address())
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
