//! Native code in memory: copied, then made executable and never writable again.
//!
//! Kernels are flat, relocation-free blobs that call nothing outside themselves, so loading one is
//! a copy. The code is as trustworthy as the file it came from: whoever loads it has decided that.

use crate::error::Error;
use memmap2::{Mmap, MmapMut};

/// Every blob begins at a multiple of this many bytes: a cache line, and more than any
/// instruction set asks of an entry point.
pub const BLOB_ALIGN: usize = 64;

/// What lies between blobs traps when executed (`int3`; on other machines an undefined
/// instruction).
const PADDING: u8 = if cfg!(target_arch = "x86_64") {
    0xcc
} else {
    0
};

/// A kernel of an artifact.
///
/// - `ptrs`: the operands' addresses; how many, and what they mean, is in the plan;
/// - `scalars`: the sizes and strides that the plan lists for the kernel;
/// - `begin`, `end`: the worker's share of the kernel's parallel dimension;
/// - `worker`: the worker's index, for scratch memory.
///
/// Calling one is sound only while its [`ExecMemory`] lives, on a CPU of the level it was
/// generated for, with every pointer and size as the plan says.
pub type KernelFn = unsafe extern "C" fn(
    ptrs: *const *mut u8,
    scalars: *const i64,
    begin: i64,
    end: i64,
    worker: i64,
);

/// Blobs of native code, readable and executable.
#[derive(Debug)]
pub struct ExecMemory {
    map: Mmap,
    len: usize,
}

impl ExecMemory {
    /// Maps a copy of `code`, whose first byte gets offset 0.
    ///
    /// # Errors
    /// Empty code, or a system that does not grant the memory or does not let it be executed.
    pub fn load(code: &[u8]) -> Result<ExecMemory, Error> {
        Ok(ExecMemory::load_blobs(&[code])?.0)
    }

    /// Maps copies of several blobs, each on a boundary of [`BLOB_ALIGN`] bytes, and returns the
    /// offset of each.
    ///
    /// # Errors
    /// As [`ExecMemory::load`]; also when there are no blobs, or an empty one.
    pub fn load_blobs(blobs: &[&[u8]]) -> Result<(ExecMemory, Vec<usize>), Error> {
        let (offsets, len) = place(blobs)?;
        let map_error = |source| Error::Map {
            what: "native code",
            bytes: len,
            source,
        };
        let mut writable = MmapMut::map_anon(len).map_err(map_error)?;
        writable.fill(PADDING);
        for (blob, &offset) in blobs.iter().zip(&offsets) {
            writable[offset..offset + blob.len()].copy_from_slice(blob);
        }
        // Replaces write permission by execute permission; never both.
        let map = writable.make_exec().map_err(map_error)?;
        synchronise_instructions(&map);
        Ok((ExecMemory { map, len }, offsets))
    }

    /// The size of the code in bytes, padding between blobs included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never true: empty code is not loaded.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The kernel that begins at `offset` bytes.
    ///
    /// # Errors
    /// An offset outside the code or not a multiple of [`BLOB_ALIGN`].
    pub fn kernel(&self, offset: usize) -> Result<KernelFn, Error> {
        if offset >= self.len {
            let len = self.len;
            return Err(refused(format!(
                "a kernel at offset {offset}, but there are {len} bytes of code"
            )));
        }
        if !offset.is_multiple_of(BLOB_ALIGN) {
            return Err(refused(format!(
                "a kernel at offset {offset}, which is no multiple of {BLOB_ALIGN}"
            )));
        }
        let entry: *const u8 = &self.map[offset];
        // SAFETY: a function pointer is a non-null address of the same size. What lies there is
        // not examined: calling it is unsafe, and the caller answers for the code.
        Ok(unsafe { std::mem::transmute::<*const u8, KernelFn>(entry) })
    }
}

/// Offsets of blobs laid one after the other, and the whole length.
fn place(blobs: &[&[u8]]) -> Result<(Vec<usize>, usize), Error> {
    let overflow = || Error::SizeOverflow {
        what: "native code",
    };
    let (mut offsets, mut end) = (Vec::with_capacity(blobs.len()), 0usize);
    for (index, blob) in blobs.iter().enumerate() {
        if blob.is_empty() {
            return Err(refused(format!("blob {index} is empty")));
        }
        let offset = end
            .checked_next_multiple_of(BLOB_ALIGN)
            .ok_or_else(overflow)?;
        end = offset.checked_add(blob.len()).ok_or_else(overflow)?;
        offsets.push(offset);
    }
    if offsets.is_empty() {
        return Err(refused("there is none to load".to_owned()));
    }
    Ok((offsets, end))
}

fn refused(reason: String) -> Error {
    Error::NativeCode { reason }
}

/// x86 keeps instruction fetch coherent with stores by itself.
#[cfg(not(target_arch = "aarch64"))]
fn synchronise_instructions(_code: &[u8]) {}

/// Makes instruction fetch see what was just stored: data caches are cleaned to the point of
/// unification, then instruction caches invalidated, line by line (Arm ARM, B2.4.4).
#[cfg(target_arch = "aarch64")]
fn synchronise_instructions(code: &[u8]) {
    use std::arch::asm;
    let ctr: usize;
    // SAFETY: reading the cache type register has no effect, and Linux lets user code read it.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack)) };
    let (data_line, code_line) = (4 << ((ctr >> 16) & 15), 4 << (ctr & 15));
    let (start, end) = (code.as_ptr() as usize, code.as_ptr_range().end as usize);
    for line in (start & !(data_line - 1)..end).step_by(data_line) {
        // SAFETY: cleaning a cache line of mapped memory changes no value.
        unsafe { asm!("dc cvau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb ish", options(nostack)) };
    for line in (start & !(code_line - 1)..end).step_by(code_line) {
        // SAFETY: invalidating an instruction cache line of mapped memory changes no value.
        unsafe { asm!("ic ivau, {}", in(reg) line, options(nostack)) };
    }
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack)) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `*ptrs[0] = scalars[0] + begin + 2·end + 4·worker`, in System V x86-64 machine code.
    #[cfg(target_arch = "x86_64")]
    const SUM: &[u8] = &[
        0x48, 0x8d, 0x04, 0x4a, // lea rax, [rdx + rcx*2]
        0x4a, 0x8d, 0x04, 0x80, // lea rax, [rax + r8*4]
        0x48, 0x03, 0x06, // add rax, [rsi]
        0x48, 0x8b, 0x3f, // mov rdi, [rdi]
        0x48, 0x89, 0x07, // mov [rdi], rax
        0xc3, // ret
    ];

    #[cfg(target_arch = "x86_64")]
    fn call(kernel: KernelFn, scalar: i64, begin: i64, end: i64, worker: i64) -> i64 {
        let mut result = 0i64;
        let ptrs = [(&raw mut result).cast::<u8>()];
        // SAFETY: `SUM` reads one scalar and writes eight bytes through one pointer.
        unsafe { kernel(ptrs.as_ptr(), &scalar, begin, end, worker) };
        result
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_kernel_runs_with_its_arguments() {
        let code = ExecMemory::load(SUM).unwrap();
        let kernel = code.kernel(0).unwrap();
        assert_eq!(call(kernel, 1000, 1, 20, 3), 1000 + 1 + 40 + 12);
        assert_eq!(call(kernel, -5, 0, 0, 0), -5);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn blobs_lie_on_their_boundaries_and_all_run() {
        let long = [SUM, &[0x90; 100]].concat();
        let (code, offsets) = ExecMemory::load_blobs(&[SUM, &long, SUM]).unwrap();
        assert_eq!(offsets, [0, 64, 192]);
        assert_eq!(code.len(), 192 + SUM.len());
        for &offset in &offsets {
            assert_eq!(call(code.kernel(offset).unwrap(), 7, 1, 1, 1), 14);
        }
    }

    #[test]
    #[cfg(not(target_arch = "x86_64"))]
    fn a_kernel_runs_with_its_arguments() {
        println!("skipped: the machine code of this test is for x86-64");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn code_is_executable_and_not_writable() {
        let code = ExecMemory::load(&[PADDING; 10]).unwrap();
        let address = code.map.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let line = maps.lines().find(|line| {
            let (range, _) = line.split_once(' ').unwrap();
            let (low, high) = range.split_once('-').unwrap();
            let bound = |text| usize::from_str_radix(text, 16).unwrap();
            (bound(low)..bound(high)).contains(&address)
        });
        assert!(line.unwrap().contains(" r-xp "), "{line:?}");
        assert_eq!(code.map[..], [PADDING; 10]);
    }

    #[test]
    fn offsets_outside_are_refused() {
        let code = ExecMemory::load(&[PADDING; 100]).unwrap();
        assert!(code.kernel(64).is_ok());
        for (offset, why) in [
            (100, "there are 100 bytes"),
            (usize::MAX, "there are 100 bytes"),
            (128, "there are 100 bytes"),
            (65, "no multiple of 64"),
        ] {
            let message = code.kernel(offset).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
    }

    #[test]
    fn empty_code_is_refused() {
        assert!(ExecMemory::load(&[]).is_err());
        assert!(ExecMemory::load_blobs(&[]).is_err());
        let error = ExecMemory::load_blobs(&[&[PADDING], &[]]).unwrap_err();
        assert!(error.to_string().contains("blob 1"));
    }
}
