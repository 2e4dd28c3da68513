//! LLVM's settings for each level, and LLVM itself: text in, object file out.

use crate::backend::Options;
use crate::level::{Arch, Level};
use inkwell::context::Context;
use inkwell::llvm_sys::target_machine::{
    LLVMCodeGenOptLevel, LLVMCodeModel, LLVMCreateTargetMachine, LLVMRelocMode,
};
use inkwell::memory_buffer::MemoryBuffer;
use inkwell::module::Module;
use inkwell::passes::PassBuilderOptions;
use inkwell::targets::{FileType, InitializationConfig, Target, TargetMachine, TargetTriple};
use std::ffi::CString;
use std::sync::Once;

/// What is done to the IR. Nothing that changes the shape of a loop: kernels are written with the
/// vectors and the unrolling that they want.
const PASSES: &str = "function(mem2reg,early-cse,instcombine<no-verify-fixpoint>,simplifycfg,\
                      loop-mssa(licm),early-cse<memssa>,instcombine<no-verify-fixpoint>,\
                      simplifycfg,adce)";

/// What LLVM makes of a module.
pub(super) struct Emitted {
    /// An ELF object file.
    pub object: Vec<u8>,
    /// The IR as the code generator gets it; empty unless asked for.
    pub ir: String,
    /// Assembly; empty unless asked for.
    pub asm: String,
}

/// Compiles the text of a module.
///
/// # Errors
/// LLVM's message.
pub(super) fn emit(text: &str, level: Level, options: Options) -> Result<Emitted, String> {
    let machine = machine(level)?;
    let context = Context::create();
    let buffer = MemoryBuffer::create_from_memory_range_copy(text.as_bytes(), "kernel");
    let module = context
        .create_module_from_ir(buffer)
        .map_err(|e| e.to_string())?;
    module.set_triple(&machine.get_triple());
    module.set_data_layout(&machine.get_target_data().get_data_layout());
    module.verify().map_err(|e| e.to_string())?;
    module
        .run_passes(PASSES, &machine, PassBuilderOptions::create())
        .map_err(|e| e.to_string())?;
    let ir = match options.ir {
        true => module.to_string(),
        false => String::new(),
    };
    // The code generator changes the module: the assembly comes from a copy.
    let asm = match options.asm {
        true => {
            let asm = written(&machine, &module.clone(), FileType::Assembly)?;
            String::from_utf8_lossy(&asm).into_owned()
        }
        false => String::new(),
    };
    let object = written(&machine, &module, FileType::Object)?;
    Ok(Emitted { object, ir, asm })
}

fn written(machine: &TargetMachine, module: &Module, form: FileType) -> Result<Vec<u8>, String> {
    let buffer = machine.write_to_memory_buffer(module, form);
    let buffer = buffer.map_err(|e| e.to_string())?;
    Ok(buffer.as_slice().to_vec())
}

/// The attributes of the kernel's function, as group 0.
pub(super) fn attributes(level: Level) -> String {
    let features: Vec<_> = level.features().iter().map(|f| format!("+{f}")).collect();
    format!(
        "\nattributes #0 = {{ nounwind \"no-builtins\" \"frame-pointer\"=\"none\" \
         \"target-cpu\"=\"{}\" \"target-features\"=\"{}\" \"prefer-vector-width\"=\"{}\" }}\n\
         !0 = !{{}}\n",
        cpu(level),
        features.join(","),
        8 * level.widest_vector()
    )
}

/// The processor that instructions are scheduled for.
fn cpu(level: Level) -> &'static str {
    match level {
        Level::X86V2 => "x86-64-v2",
        Level::X86V3 => "x86-64-v3",
        Level::X86V4 | Level::X86V4Vnni => "x86-64-v4",
        Level::Aarch64 | Level::Aarch64Dotprod => "generic",
    }
}

fn triple(level: Level) -> &'static str {
    match level.arch() {
        Arch::X86_64 => "x86_64-unknown-linux-gnu",
        Arch::Aarch64 => "aarch64-unknown-linux-gnu",
    }
}

/// The code generator for a level.
fn machine(level: Level) -> Result<TargetMachine, String> {
    static TARGETS: Once = Once::new();
    TARGETS.call_once(|| {
        Target::initialize_x86(&InitializationConfig::default());
        Target::initialize_aarch64(&InitializationConfig::default());
    });
    let name = triple(level);
    let target = Target::from_triple(&TargetTriple::create(name)).map_err(|e| e.to_string())?;
    let features: Vec<_> = level.features().iter().map(|f| format!("+{f}")).collect();
    let text = |s: &str| CString::new(s).map_err(|e| e.to_string());
    let (name, cpu, features) = (text(name)?, text(cpu(level))?, text(&features.join(","))?);
    // On aarch64 only the tiny model's references hold at whatever boundary the blob is loaded;
    // those of the small one count in pages. inkwell has no name for it.
    let model = match level.arch() {
        Arch::X86_64 => LLVMCodeModel::LLVMCodeModelSmall,
        Arch::Aarch64 => LLVMCodeModel::LLVMCodeModelTiny,
    };
    // SAFETY: a target that LLVM has just given, and strings that outlive the call.
    let machine = unsafe {
        LLVMCreateTargetMachine(
            target.as_mut_ptr(),
            name.as_ptr(),
            cpu.as_ptr(),
            features.as_ptr(),
            LLVMCodeGenOptLevel::LLVMCodeGenLevelDefault,
            LLVMRelocMode::LLVMRelocPIC,
            model,
        )
    };
    if machine.is_null() {
        return Err(format!("LLVM has no code generator for {level}"));
    }
    // SAFETY: a new target machine, which nothing else owns.
    Ok(unsafe { TargetMachine::new(machine) })
}
