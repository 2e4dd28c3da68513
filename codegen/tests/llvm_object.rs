//! What all code of the LLVM backend has in common: it stands alone, is reproducible, and
//! prefetches; and what the backend refuses.

#![cfg(feature = "llvm")]

mod common;

use common::Subject;
use rabitc_codegen::CodegenError;
use rabitc_codegen::backend::{Backend, Object, Options};
use rabitc_codegen::kir::{BinOp, Builder, Elem, Inst, Kernel, Ty, UnOp};
use rabitc_codegen::level::{Arch, Level};
use rabitc_codegen::llvm::{Llvm, compile};
use rabitc_runtime::exec_memory::ExecMemory;

/// Bytes of a vector in the kernels that every level compiles.
pub const WIDTH: usize = 16;

const TEXTS: Options = Options {
    ir: true,
    asm: true,
};

fn code(kernel: &Kernel, level: Level) -> Vec<u8> {
    compile(kernel, level, Options::default()).unwrap().code
}

/// A kernel with every kind of thing that could need something from outside.
fn large_kernel(width: usize) -> Kernel {
    let mut b = Builder::new("large", width);
    let (from, out) = (b.input("from"), b.output("out"));
    let scratch = b.stack(64 * 50);
    let (begin, end) = b.range();
    let ty = b.vec(Elem::F32);
    b.for_range(begin, end, 1, |b, i| {
        let x = b.load(ty, from, 0);
        let mut y = x;
        for k in 0..50 {
            let c = b.float(1.0 / (k + 1) as f32);
            y = b.fma(y, x, c);
            b.store(scratch, 64 * k, y);
        }
        let y = b.un(UnOp::Nearest, y);
        let three = b.int(3);
        let third = b.div(i, three);
        let z = b.to_float(third);
        let z = b.splat(z);
        let y = b.emit(ty, Inst::Bin(BinOp::Div, y, z));
        let y = b.un(UnOp::Sqrt, y);
        let y = b.max(y, x);
        let at = b.at(out, i, 64);
        b.store(at, 0, y);
    });
    b.finish()
}

#[test]
fn the_same_kernel_gives_the_same_bytes() {
    for level in Level::ALL {
        let kernel = large_kernel(Llvm.vector_bytes(level));
        let first: Object = Llvm.compile(&kernel, level, TEXTS).unwrap();
        assert_eq!(first, Llvm.compile(&kernel, level, TEXTS).unwrap());
        assert!(first.ir.contains("define void @large(") && first.asm.contains("ret"));
        let plain = Llvm.compile(&kernel, level, Options::default()).unwrap();
        assert_eq!(plain.code, first.code, "the texts change nothing");
        assert!(plain.ir.is_empty() && plain.asm.is_empty());
    }
}

/// Zero-filling a stack area and copying between buffers byte by byte: loops that an optimiser
/// could make library calls of.
#[test]
fn loops_do_not_become_library_calls() {
    let mut b = Builder::new("copy", WIDTH);
    let (from, out) = (b.input("from"), b.output("out"));
    let area = b.stack(4096);
    let byte = Ty::scalar(Elem::I8);
    let (begin, end) = b.range();
    b.for_range(begin, end, 1, |b, i| {
        let zero = b.int_of(byte, 0);
        let at = b.add(area, i);
        b.store(at, 0, zero);
    });
    b.for_range(begin, end, 1, |b, i| {
        let (from, area, to) = (b.add(from, i), b.add(area, i), b.add(out, i));
        let (x, y) = (b.load(byte, from, 0), b.load(byte, area, 0));
        let sum = b.add(x, y);
        b.store(to, 0, sum);
    });
    let kernel = b.finish();
    for level in Level::ALL {
        code(&kernel, level);
    }
    let from: Vec<u8> = (0..200).collect();
    let out = Subject::new(kernel).agree(&[from.clone(), vec![0; 200]], &[], 0..200);
    assert_eq!(out[1], from);
}

#[test]
fn full_vectors_are_used() {
    let asm = |level: Level| {
        let kernel = large_kernel(Llvm.vector_bytes(level));
        compile(&kernel, level, TEXTS).unwrap().asm
    };
    let (v2, v3, v4) = (asm(Level::X86V2), asm(Level::X86V3), asm(Level::X86V4));
    assert!(v2.contains("%xmm") && !v2.contains("%ymm") && !v2.contains("fmadd"));
    assert!(v3.contains("%ymm") && !v3.contains("%zmm") && v3.contains("fmadd"));
    assert!(v4.contains("%zmm") && v4.contains("fmadd"));
    assert!(asm(Level::Aarch64).contains("fmla"));
}

/// Addresses that no process has.
#[test]
fn prefetches_never_fault() {
    let mut b = Builder::new("prefetch", WIDTH);
    let out = b.output("out");
    let nowhere = [b.scalar("a"), b.scalar("b")];
    let (begin, end) = b.range();
    b.for_range(begin, end, 1, |b, i| {
        for base in nowhere {
            for offset in [0, 13, -8, 1 << 20] {
                let at = b.at(base, i, 64);
                b.prefetch(rabitc_codegen::kir::Cache::L1, at, offset);
            }
        }
        b.prefetch(rabitc_codegen::kir::Cache::L1, out, 0);
    });
    let kernel = b.finish();
    for level in Level::ALL {
        let asm = compile(&kernel, level, TEXTS).unwrap().asm;
        let word = match level.arch() {
            Arch::X86_64 => "prefetcht0",
            Arch::Aarch64 => "pldl1keep",
        };
        assert_eq!(asm.matches(word).count(), 9, "{asm}");
    }
    Subject::new(kernel).agree(&[vec![9, 0]], &[0, -4096], 0..3);
}

/// Constants lie behind the code and are found wherever the blob is loaded.
#[test]
fn code_runs_at_any_64_byte_boundary() {
    for level in common::levels() {
        let width = Llvm.vector_bytes(level);
        let mut b = Builder::new("constants", width);
        let out = b.output("out");
        for i in 0..20 {
            let bytes = b.bytes(
                Elem::I8,
                &std::array::from_fn::<u8, 16, _>(|k| (k * i + 1) as u8),
            );
            let x = b.load(b.vec(Elem::I8), out, (i * width) as i32);
            let sum = b.add(x, bytes);
            b.store(out, (i * width) as i32, sum);
        }
        let code = code(&b.finish(), level);
        let blobs = [&[0xcc; 64][..], &code, &[0xcc; 300], &code];
        let (memory, offsets) = ExecMemory::load_blobs(&blobs).unwrap();
        for offset in [offsets[1], offsets[3]] {
            let mut out = vec![0u8; 20 * width];
            let ptrs = [out.as_mut_ptr()];
            let run = memory.kernel(offset).unwrap();
            // SAFETY: the kernel writes 20 vectors through one pointer, and reads no scalars.
            unsafe { run(ptrs.as_ptr(), std::ptr::null(), 0, 0, 0) };
            let expected = (0..20 * width).map(|k| (k % 16 * (k / width) + 1) as u8);
            assert_eq!(out, expected.collect::<Vec<_>>(), "{level} at {offset}");
        }
    }
}

#[test]
fn vectors_wider_than_the_level_s_are_refused() {
    for (width, level) in [(32, Level::X86V2), (64, Level::X86V3), (32, Level::Aarch64)] {
        let error = compile(&large_kernel(width), level, Options::default()).unwrap_err();
        let CodegenError::VectorWidth {
            found, supported, ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!((found, supported), (width, Llvm.vector_bytes(level)));
    }
}

#[test]
fn invalid_kernels_are_refused() {
    let mut b = Builder::new("broken", WIDTH);
    let out = b.output("out");
    b.store(out, 0, rabitc_codegen::kir::Val(99));
    let error = compile(&b.finish(), Level::X86V3, Options::default()).unwrap_err();
    assert!(error.to_string().contains("v99"), "{error}");
}
