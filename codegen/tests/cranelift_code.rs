//! The machine code of a look-up loop, the kind that decoding spends its time in: nothing in the
//! loop but what the kernel asks for.

mod common;

/// Bytes of a vector.
pub const WIDTH: usize = 16;

use common::Subject;
use rabitc_codegen::backend::Options;
use rabitc_codegen::cranelift::compile;
use rabitc_codegen::kir::{Builder, Elem, Kernel, Val, Var};
use rabitc_codegen::level::Level;

/// 16-bit sums of table entries that the nibbles of `signs` select, for two rows of bytes.
fn lookup_loop() -> Kernel {
    let mut b = Builder::new("lookups", WIDTH);
    let (signs, tables, out) = (b.input("signs"), b.input("tables"), b.output("out"));
    let (begin, end) = b.range();
    let zero = b.int_of(b.vec(Elem::I16), 0);
    let sums: Vec<_> = (0..4).map(|_| b.var(zero)).collect();
    b.for_range(begin, end, 1, |b, i| {
        let (signs, tables) = (b.at(signs, i, 32), b.at(tables, i, 32));
        b.prefetch(rabitc_codegen::kir::Cache::L1, signs, 4096);
        let bytes = b.vec(Elem::I8);
        let table = [0, 16].map(|offset| b.load(bytes, tables, offset));
        for row in 0..2 {
            let signs = b.load(bytes, signs, 16 * row);
            for (index, table) in nibbles(b, signs).into_iter().zip(table) {
                let entries = b.lookup16(table, index);
                let entries = b.bitcast(entries, Elem::I16);
                add_to(b, sums[2 * row as usize], entries);
                let odd = b.shr(entries, 8);
                add_to(b, sums[2 * row as usize + 1], odd);
            }
        }
    });
    for (k, sum) in sums.into_iter().enumerate() {
        let s = b.get(sum);
        b.store(out, 16 * k as i32, s);
    }
    b.finish()
}

fn add_to(b: &mut Builder, sum: Var, x: Val) {
    let s = b.get(sum);
    let s = b.add(s, x);
    b.set(sum, s);
}

fn nibbles(b: &mut Builder, signs: Val) -> [Val; 2] {
    let mask = b.bytes(Elem::I8, &[15; 16]);
    let low = b.and(signs, mask);
    let pairs = b.bitcast(signs, Elem::I16);
    let high = b.shr(pairs, 4);
    let high = b.bitcast(high, Elem::I8);
    [low, b.and(high, mask)]
}

/// The lines of the block that holds the look-ups.
fn loop_lines(level: Level) -> Vec<String> {
    let options = Options {
        asm: true,
        ..Options::default()
    };
    let asm = compile(&lookup_loop(), level, options).unwrap().asm;
    let mut blocks: Vec<Vec<String>> = vec![Vec::new()];
    for line in asm.lines() {
        match line.starts_with(' ') {
            true => blocks.last_mut().unwrap().push(line.trim().to_string()),
            false => blocks.push(Vec::new()),
        }
    }
    let holds = |block: &&Vec<String>| {
        let mut lines = block.iter();
        lines.any(|line| line.contains("pshufb") || line.starts_with("tbl"))
    };
    blocks.iter().find(holds).unwrap().clone()
}

#[test]
fn the_loop_is_right() {
    let bytes = |n: u32, seed: u32| -> Vec<u8> {
        let numbers = (0..n).map(|i| i.wrapping_mul(seed) >> 13);
        numbers.map(|x| x as u8).collect()
    };
    let buffers = [bytes(320, 2654435761), bytes(320, 40503 << 7), vec![0; 64]];
    Subject::new(lookup_loop()).agree(&buffers, &[], 0..10);
}

#[test]
fn the_loop_keeps_everything_in_registers() {
    for level in Level::ALL {
        for line in loop_lines(level) {
            let elsewhere = ["rsp", "rip", "[sp", "pc+", "label"];
            let outside = elsewhere.iter().any(|word| line.contains(word));
            assert!(
                !outside || line.starts_with('j') || line.starts_with('b'),
                "{level}: {line}"
            );
        }
    }
}

/// Three-operand instructions need no moves between registers. The older ones overwrite their
/// first operand, which is used again four times: the signs of both rows, and both tables.
#[test]
fn the_loop_moves_little() {
    let moves = |level| {
        let lines = loop_lines(level);
        let moves = lines
            .iter()
            .filter(|l| l.starts_with("movdqa ") || l.starts_with("mov v"));
        moves.count()
    };
    assert_eq!(moves(Level::X86V3), 0);
    assert_eq!(moves(Level::X86V2), 4);
    assert_eq!(moves(Level::Aarch64), 0);
}

#[test]
fn the_loop_on_avx2() {
    insta::assert_snapshot!(loop_lines(Level::X86V3).join("\n"), @r"
    movq %rdx, %r8
    shlq $0x5, %r8
    prefetcht0 0x1000(%rsi, %r8)
    vmovdqu (%r9, %r8), %xmm6
    vmovdqu 0x10(%r9, %r8), %xmm5
    vmovdqu (%rsi, %r8), %xmm7
    vpand %xmm0, %xmm7, %xmm8
    vpsrlw $0x4, %xmm7, %xmm7
    vpand %xmm0, %xmm7, %xmm7
    vpshufb %xmm8, %xmm6, %xmm8
    vpaddw %xmm8, %xmm1, %xmm1
    vpsrlw $0x8, %xmm8, %xmm8
    vpaddw %xmm8, %xmm4, %xmm4
    vpshufb %xmm7, %xmm5, %xmm7
    vpaddw %xmm7, %xmm1, %xmm1
    vpsrlw $0x8, %xmm7, %xmm7
    vpaddw %xmm7, %xmm4, %xmm4
    vmovdqu 0x10(%rsi, %r8), %xmm7
    vpand %xmm0, %xmm7, %xmm8
    vpsrlw $0x4, %xmm7, %xmm7
    vpand %xmm0, %xmm7, %xmm7
    vpshufb %xmm8, %xmm6, %xmm6
    vpaddw %xmm6, %xmm3, %xmm3
    vpsrlw $0x8, %xmm6, %xmm6
    vpaddw %xmm6, %xmm2, %xmm2
    vpshufb %xmm7, %xmm5, %xmm5
    vpaddw %xmm5, %xmm3, %xmm3
    vpsrlw $0x8, %xmm5, %xmm5
    vpaddw %xmm5, %xmm2, %xmm2
    leaq 1(%rdx), %rdx
    cmpq %rcx, %rdx
    jl      label4; j label5
    ");
}

#[test]
fn the_loop_on_neon() {
    insta::assert_snapshot!(loop_lines(Level::Aarch64).join("\n"), @r"
    lsl x6, x2, #5
    add x5, x1, x2, LSL 5
    add x7, x4, x2, LSL 5
    add x8, x1, #4096
    prfm pldl1keep, [x8, x6]
    ldr q2, [x4, x6]
    ldr q1, [x7, #16]
    ldr q3, [x1, x6]
    and v4.16b, v3.16b, v0.16b
    ushr v3.8h, v3.8h, #4
    and v3.16b, v3.16b, v0.16b
    tbl v5.16b, { v2.16b }, v4.16b
    add v4.8h, v16.8h, v5.8h
    ushr v5.8h, v5.8h, #8
    add v5.8h, v19.8h, v5.8h
    tbl v3.16b, { v1.16b }, v3.16b
    add v16.8h, v4.8h, v3.8h
    ushr v3.8h, v3.8h, #8
    add v19.8h, v5.8h, v3.8h
    ldr q3, [x5, #16]
    and v4.16b, v3.16b, v0.16b
    ushr v3.8h, v3.8h, #4
    and v3.16b, v3.16b, v0.16b
    tbl v4.16b, { v2.16b }, v4.16b
    add v2.8h, v20.8h, v4.8h
    ushr v4.8h, v4.8h, #8
    add v4.8h, v21.8h, v4.8h
    tbl v1.16b, { v1.16b }, v3.16b
    add v20.8h, v2.8h, v1.8h
    ushr v1.8h, v1.8h, #8
    add v21.8h, v4.8h, v1.8h
    add x2, x2, #1
    subs xzr, x2, x3
    b.lt label4 ; b label5
    ");
}
