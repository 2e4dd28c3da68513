//! Tests of the linker on modules written by hand.

use super::*;
use crate::backend::Options;
use crate::level::Level;
use crate::llvm::target;

/// Compiles and links a module whose function `k` has the body and the module the globals given.
fn link_module(body: &str, globals: &str, level: Level) -> Result<Vec<u8>, CodegenError> {
    let text = format!(
        "{globals}\ndefine void @k(ptr %p) #0 {{\n{body}\n  ret void\n}}\n{}",
        target::attributes(level)
    );
    let emitted = target::emit(&text, level, Options::default()).unwrap();
    link("k", level.arch(), &emitted.object)
}

fn refused(body: &str, globals: &str, level: Level) -> String {
    let error = link_module(body, globals, level).unwrap_err();
    assert!(matches!(error, CodegenError::ExternalSymbol { .. }));
    let message = error.to_string();
    assert!(message.contains("kernel k "), "{message}");
    message
}

#[test]
fn external_symbols_are_refused_by_name() {
    for level in Level::ALL {
        let message = refused(
            "  call void @elsewhere()",
            "declare void @elsewhere()",
            level,
        );
        assert!(message.contains("refers to elsewhere"), "{message}");
        let body = "  %x = load i32, ptr @outside\n  store i32 %x, ptr %p";
        let message = refused(body, "@outside = external hidden global i32", level);
        assert!(message.contains("refers to outside"), "{message}");
    }
}

#[test]
fn library_calls_of_the_code_generator_are_refused() {
    let body = "  %x = load float, ptr %p\n  %y = call float @llvm.exp.f32(float %x)\n  \
                store float %y, ptr %p";
    let message = refused(body, "declare float @llvm.exp.f32(float)", Level::X86V3);
    assert!(message.contains("refers to expf"), "{message}");
}

#[test]
fn writable_data_is_refused() {
    for level in Level::ALL {
        let body = "  %x = load i32, ptr @own\n  %y = add i32 %x, 1\n  store i32 %y, ptr @own";
        let message = refused(body, "@own = hidden global i32 7", level);
        assert!(message.contains("the writable section .data"), "{message}");
    }
}

#[test]
fn constants_follow_the_code() {
    let globals = "@table = private unnamed_addr constant [3 x i32] [i32 77, i32 88, i32 99]";
    let body = "  %n = load i64, ptr %p\n  \
                %at = getelementptr [3 x i32], ptr @table, i64 0, i64 %n\n  \
                %x = load i32, ptr %at\n  store i32 %x, ptr %p";
    for level in Level::ALL {
        let blob = link_module(body, globals, level).unwrap();
        let table: Vec<u8> = [77u32, 88, 99]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        assert_eq!(&blob[64..], table, "{level}");
    }
}

#[test]
fn other_files_are_refused() {
    for bytes in [&[][..], b"\x7fELF", &[0; 200]] {
        let error = link("k", Arch::X86_64, bytes).unwrap_err().to_string();
        assert!(error.contains("unreadable object file"), "{error}");
    }
}
