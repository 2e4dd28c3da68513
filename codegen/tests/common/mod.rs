//! Runs kernels twice, in the interpreter and as machine code, and compares.

#![allow(dead_code)]

mod emulator;

use proptest::prelude::*;
use rabitc_codegen::backend::{Backend, Options};
use rabitc_codegen::cranelift::Cranelift;
use rabitc_codegen::kir::interp::{self, Call};
use rabitc_codegen::kir::{Builder, Elem, Kernel, Ty, Val};
use rabitc_codegen::level::{Arch, Level};
use rabitc_runtime::exec_memory::ExecMemory;
use std::cell::Cell;
use std::ops::Range;

/// Bytes of a vector: what the module around this one says.
pub use super::WIDTH;

/// The backends of this build.
pub fn backends() -> Vec<Box<dyn Backend>> {
    vec![
        Box::new(Cranelift),
        #[cfg(feature = "llvm")]
        Box::new(rabitc_codegen::llvm::Llvm),
    ]
}

/// The levels that this machine runs.
pub fn levels() -> Vec<Level> {
    let native = Level::native();
    let runs = |level: &Level| native.is_some_and(|native| native.supports(*level));
    let levels: Vec<_> = Level::ALL.into_iter().filter(runs).collect();
    if levels.is_empty() {
        println!("no level runs here: machine code is compiled and not run");
    }
    levels
}

/// A kernel, compiled by every backend for every level that has such vectors, and loaded for those
/// that run here.
pub struct Subject {
    kernel: Kernel,
    code: Vec<(String, Level, ExecMemory)>,
    /// Code for the emulator, which is slow: it runs once a subject.
    emulated: Cell<Vec<(String, Vec<u8>)>>,
}

impl Subject {
    pub fn new(kernel: Kernel) -> Subject {
        let run = levels();
        let (mut code, mut emulated) = (Vec::new(), Vec::new());
        for backend in backends() {
            let fits = |level: &&Level| {
                let lacks = !backend.vectors(**level).permute;
                let refused = lacks && backend.admit(&kernel, **level).is_err();
                backend.vector_bytes(**level) >= WIDTH && !refused
            };
            for &level in backend.levels().iter().filter(fits) {
                let object = backend.compile(&kernel, level, Options::default());
                let blob = object.unwrap().code;
                if run.contains(&level) {
                    let loaded = ExecMemory::load(&blob).unwrap();
                    code.push((backend.name().to_owned(), level, loaded));
                } else if level.arch() == Arch::Aarch64 && emulator::qemu().is_some() {
                    emulated.push((backend.name().to_owned(), blob));
                }
            }
        }
        Subject {
            kernel,
            code,
            emulated: Cell::new(emulated),
        }
    }

    /// Runs the kernel everywhere on copies of `buffers`, and compares what is in them afterwards.
    /// Gives the buffers as the interpreter leaves them.
    pub fn agree(&self, buffers: &[Vec<u8>], scalars: &[i64], range: Range<i64>) -> Vec<Vec<u8>> {
        let worker = 7;
        let mut results: [Option<Vec<Vec<u8>>>; 2] = [None, None];
        for (backend, level, code) in &self.code {
            let expected = results[usize::from(level.has_fma())].get_or_insert_with(|| {
                self.interpret(buffers, scalars, range.clone(), worker, level.has_fma())
            });
            let mut got: Vec<Aligned> = buffers.iter().map(|b| Aligned::new(b)).collect();
            let ptrs: Vec<*mut u8> = got.iter_mut().map(|b| b.bytes().as_mut_ptr()).collect();
            let kernel = code.kernel(0).unwrap();
            // SAFETY: this machine runs the level, and the interpreter has seen that the kernel
            // stays within these buffers.
            unsafe {
                kernel(
                    ptrs.as_ptr(),
                    scalars.as_ptr(),
                    range.start,
                    range.end,
                    worker,
                )
            };
            for (i, (got, expected)) in got.iter_mut().zip(expected.iter()).enumerate() {
                let name = &self.kernel.params[i].name;
                let text = rabitc_codegen::kir::print::print(&self.kernel);
                assert_eq!(
                    got.bytes(),
                    expected,
                    "{name}, {backend} on {level}\n{text}"
                );
            }
        }
        for (backend, code) in self.emulated.take() {
            let expected = results[1].get_or_insert_with(|| {
                self.interpret(buffers, scalars, range.clone(), worker, true)
            });
            let arguments = [range.start, range.end, worker];
            let got = emulator::run(&code, buffers, scalars, arguments);
            let text = rabitc_codegen::kir::print::print(&self.kernel);
            assert_eq!(&got, expected, "{backend} on aarch64\n{text}");
        }
        let [twice, once] = results;
        twice
            .or(once)
            .unwrap_or_else(|| self.interpret(buffers, scalars, range, worker, true))
    }

    fn interpret(
        &self,
        buffers: &[Vec<u8>],
        scalars: &[i64],
        range: Range<i64>,
        worker: i64,
        fused: bool,
    ) -> Vec<Vec<u8>> {
        let mut result = buffers.to_vec();
        let call = Call {
            buffers: result.iter_mut().map(Vec::as_mut_slice).collect(),
            scalars,
            range,
            worker,
            fused,
        };
        interp::run(&self.kernel, call).unwrap();
        result
    }
}

/// Bytes that begin one past a multiple of 64, so that no kernel gets by on alignment.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(bytes: &[u8]) -> Aligned {
        let mut memory = vec![0; bytes.len() + 128];
        let start = memory.as_ptr().align_offset(64) + 1;
        memory[start..start + bytes.len()].copy_from_slice(bytes);
        Aligned {
            memory,
            start,
            len: bytes.len(),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

/// A kernel that loads one value of each type from inputs, applies `body`, and stores the result.
pub fn apply(name: &str, types: &[Ty], body: impl Fn(&mut Builder, &[Val]) -> Val) -> Subject {
    let mut b = Builder::new(name, WIDTH);
    let inputs: Vec<_> = (0..types.len())
        .map(|i| b.input(&format!("in{i}")))
        .collect();
    let output = b.output("out");
    let loads = inputs.iter().zip(types);
    let values: Vec<_> = loads.map(|(&ptr, &ty)| b.load(ty, ptr, 0)).collect();
    let result = body(&mut b, &values);
    b.store(output, 0, result);
    Subject::new(b.finish())
}

/// Runs a kernel made by [`apply`] on `cases` random inputs.
pub fn check(subject: &Subject, types: &[Ty], cases: u32) {
    let strategy: Vec<_> = types.iter().map(|&ty| bytes_of(ty)).collect();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    runner
        .run(&strategy, |mut buffers| {
            buffers.push(vec![0xcc; WIDTH]);
            subject.agree(&buffers, &[], 0..1);
            Ok(())
        })
        .unwrap();
}

/// Memory that holds a value of type `ty`: extreme values as often as ordinary ones.
pub fn bytes_of(ty: Ty) -> BoxedStrategy<Vec<u8>> {
    let lane: BoxedStrategy<Vec<u8>> = match ty.elem {
        Elem::F32 => float().prop_map(|x| x.to_le_bytes().to_vec()).boxed(),
        elem => int(elem)
            .prop_map(move |x| x.to_le_bytes()[..elem.bytes()].to_vec())
            .boxed(),
    };
    prop::collection::vec(lane, ty.lanes as usize)
        .prop_map(|lanes| lanes.concat())
        .boxed()
}

fn int(elem: Elem) -> BoxedStrategy<i64> {
    let min = i64::MIN >> (64 - 8 * elem.bytes());
    prop_oneof![
        3 => any::<i64>(),
        1 => -3i64..=3,
        1 => Just(min),
        1 => Just(!min),
    ]
    .boxed()
}

/// Finite floats whose sums, products and quotients are no NaN.
fn float() -> BoxedStrategy<f32> {
    prop_oneof![
        3 => -1000f32..1000f32,
        2 => (-40i32..40).prop_filter_map("0 divided by 0", |x| (x != 0).then(|| x as f32 / 4.0)),
        1 => prop::sample::select(vec![1e-20f32, -3e9, 2e9, 1e15, -1e15, 8388607.5, 16777217.0]),
    ]
    .boxed()
}
