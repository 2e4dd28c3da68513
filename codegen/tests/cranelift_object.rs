//! What all code of the Cranelift backend has in common: it stands alone, is reproducible, and
//! prefetches; and what the backend refuses.

mod common;

/// Bytes of a vector.
pub const WIDTH: usize = 16;

use common::Subject;
use rabitc_codegen::CodegenError;
use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::cranelift::{Cranelift, compile};
use rabitc_codegen::kir::{BinOp, Builder, Elem, Inst, Kernel, Ty, UnOp};
use rabitc_codegen::level::Level;
use rabitc_runtime::exec_memory::ExecMemory;

/// Addresses that no process has.
#[test]
fn prefetches_never_fault() {
    let mut b = Builder::new("prefetch", WIDTH);
    let out = b.output("out");
    let nowhere = [b.scalar("a"), b.scalar("b")];
    let (begin, end) = b.range();
    b.for_range(begin, end, 1, |b, i| {
        for base in nowhere {
            for offset in [0, 8, 13, -8, 8192, 1 << 20] {
                let at = b.at(base, i, 64);
                b.prefetch(rabitc_codegen::kir::Cache::L1, at, offset);
                b.prefetch(rabitc_codegen::kir::Cache::L1, base, offset);
            }
        }
        let byte = b.load(Ty::scalar(Elem::I8), out, 0);
        b.prefetch(rabitc_codegen::kir::Cache::L1, out, 0);
        b.store(out, 1, byte);
    });
    let kernel = b.finish();
    let subject = Subject::new(kernel.clone());
    let out = subject.agree(&[vec![9, 0]], &[0, -4096], 0..3);
    assert_eq!(out[0], [9, 9]);

    for (level, word) in [(Level::X86V3, "prefetcht0 "), (Level::Aarch64, "prfm ")] {
        let options = Options {
            asm: true,
            ..Options::default()
        };
        let asm = compile(&kernel, level, options).unwrap().asm;
        assert_eq!(asm.matches(word).count(), 25, "{asm}");
    }
    let code = compile(&kernel, Level::X86V2, Options::default())
        .unwrap()
        .code;
    let prefetches = code.windows(2).filter(|w| *w == [0x0f, 0x18]).count();
    assert_eq!(prefetches, 25);
    let code = compile(&kernel, Level::Aarch64, Options::default())
        .unwrap()
        .code;
    let words = code
        .chunks_exact(4)
        .map(|c| u32::from_le_bytes([c[0], c[1], c[2], c[3]]));
    let is_prfm = |w: &u32| {
        w & 0xffc0_001f == 0xf980_0000
            || w & 0xffe0_0c1f == 0xf880_0000
            || w & 0xffe0_0c1f == 0xf8a0_0800
    };
    assert_eq!(words.filter(is_prfm).count(), 25);
}

/// A kernel with every kind of thing that could need something from outside.
fn large_kernel() -> Kernel {
    let mut b = Builder::new("large", WIDTH);
    let (from, out) = (b.input("from"), b.output("out"));
    let scratch = b.stack(1000);
    let (begin, end) = b.range();
    let ty = b.vec(Elem::F32);
    b.for_range(begin, end, 1, |b, i| {
        let x = b.load(ty, from, 0);
        let mut y = x;
        for k in 0..50 {
            let c = b.float(1.0 / k as f32);
            y = b.fma(y, x, c);
            b.store(scratch, 16 * k, y);
        }
        let y = b.un(UnOp::Nearest, y);
        let index = b.int_of(Ty::I64, 3);
        let i = b.div(i, index);
        let z = b.to_float(i);
        let z = b.splat(z);
        let y = b.emit(ty, Inst::Bin(BinOp::Div, y, z));
        let y = b.un(UnOp::Sqrt, y);
        let at = b.at(out, i, 16);
        b.store(at, 0, y);
    });
    b.finish()
}

#[test]
fn the_same_kernel_gives_the_same_bytes() {
    for level in Level::ALL {
        let options = Options {
            ir: true,
            asm: true,
        };
        let first = Cranelift.compile(&large_kernel(), level, options).unwrap();
        let again = Cranelift.compile(&large_kernel(), level, options).unwrap();
        assert_eq!(first, again);
        assert!(first.ir.contains("function %large") && first.asm.contains("ret"));
        let plain = compile(&large_kernel(), level, Options::default()).unwrap();
        assert_eq!(plain.code, first.code);
        assert!(plain.ir.is_empty() && plain.asm.is_empty());
    }
}

/// Constants lie behind the code and are found wherever the blob is loaded.
#[test]
fn code_runs_at_any_64_byte_boundary() {
    let mut b = Builder::new("constants", WIDTH);
    let out = b.output("out");
    for i in 0..20 {
        let bytes = b.bytes(
            Elem::I8,
            &std::array::from_fn::<u8, 16, _>(|k| (k * i + 1) as u8),
        );
        let at = b.load(bytes_ty(), out, i as i32 * 16);
        let sum = b.add(at, bytes);
        b.store(out, i as i32 * 16, sum);
    }
    let kernel = b.finish();
    for level in common::levels() {
        let code = compile(&kernel, level, Options::default()).unwrap().code;
        let blobs = [&[0xcc; 64][..], &code, &[0xcc; 300], &code];
        let (memory, offsets) = ExecMemory::load_blobs(&blobs).unwrap();
        for offset in [offsets[1], offsets[3]] {
            let mut out = vec![0u8; 320];
            let ptrs = [out.as_mut_ptr()];
            let run = memory.kernel(offset).unwrap();
            // SAFETY: the kernel writes 320 bytes through one pointer, and reads no scalars.
            unsafe { run(ptrs.as_ptr(), std::ptr::null(), 0, 0, 0) };
            let expected: Vec<u8> = (0..320).map(|k| (k % 16 * (k / 16) + 1) as u8).collect();
            assert_eq!(out, expected, "{level} at {offset}");
        }
    }
}

fn bytes_ty() -> Ty {
    Ty::vector(Elem::I8, WIDTH)
}

#[test]
fn wide_vectors_are_refused() {
    let mut b = Builder::new("wide", 32);
    let out = b.output("out");
    let x = b.float(1.0);
    b.store(out, 0, x);
    let error = compile(&b.finish(), Level::X86V3, Options::default()).unwrap_err();
    assert!(matches!(
        error,
        CodegenError::VectorWidth {
            found: 32,
            supported: 16,
            ..
        }
    ));
    let message = error.to_string();
    assert!(
        message.contains("kernel wide") && message.contains("x86-64-v3"),
        "{message}"
    );
}

#[test]
fn invalid_kernels_are_refused() {
    let mut b = Builder::new("broken", WIDTH);
    let out = b.output("out");
    b.store(out, 0, rabitc_codegen::kir::Val(99));
    let error = compile(&b.finish(), Level::X86V3, Options::default()).unwrap_err();
    assert!(error.to_string().contains("v99"), "{error}");
}
