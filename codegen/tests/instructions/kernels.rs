//! Whole kernels of odd shapes: the code of every backend and level, emulated where it does not run
//! here, gives the bits that the interpreter gives.

use crate::common::{Subject, WIDTH};
use rabitc_codegen::kernels::attention::Attention;
use rabitc_codegen::kernels::linear::{Linear, Weight};
use rabitc_codegen::kernels::rb_prepare::{Before, RbPrepare};
use rabitc_codegen::kernels::rb_product::RbProduct;
use rabitc_codegen::kernels::rb_tables::{TableShape, Tables};
use rabitc_codegen::kernels::rms_norm::RmsNorm;
use rabitc_codegen::kernels::{Float, Spec, Vectors};
use rabitc_ir::layout::SignLayout;

/// Vectors of this width, with and without permutations over the whole of them.
fn vectors() -> Vec<Vectors> {
    let plain = Vectors::plain(WIDTH);
    let whole = Vectors {
        permute: true,
        ..plain
    };
    match WIDTH {
        64 => vec![plain, whole],
        _ => vec![plain],
    }
}

/// Deterministic bytes (Knuth's generator).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.word() >> 8) as u8).collect()
    }

    /// f32 in −1..1.
    fn floats(&mut self, n: usize) -> Vec<u8> {
        let mut one = || (self.word() as i32 - (1 << 30)) as f32 / (1u32 << 30) as f32;
        (0..n).flat_map(|_| one().to_le_bytes()).collect()
    }
}

fn agree(
    spec: &dyn Spec,
    vectors: Vectors,
    buffers: &[Vec<u8>],
    scalars: &[i64],
    items: usize,
) -> Vec<Vec<u8>> {
    Subject::new(spec.build(vectors)).agree(buffers, scalars, 0..items as i64)
}

/// Tables, then the product, of three tokens.
fn residual_binary(tables: Tables, vectors: Vectors, most: usize) {
    let (d_in, tokens) = (301, 3);
    let layout = SignLayout {
        d_in,
        paths: 2,
        segments: vec![37, 5],
        row_tiles: 2,
    };
    let shape = TableShape {
        d_in,
        sets: 4,
        tables,
    };
    let mut random = Random(tables.name().len() as u64);
    let prepare = RbPrepare {
        shape,
        x_stride: d_in,
        h: Float::F16,
        before: Before::Nothing,
    };
    let h: Vec<u8> = (0..4 * d_in)
        .flat_map(|i| [i as u8, 0x38 | (i % 3) as u8])
        .collect();
    let made = agree(
        &prepare,
        vectors,
        &[
            random.floats(tokens * d_in),
            h,
            vec![0; tokens * shape.token_bytes()],
            vec![0; tokens * shape.scale_bytes()],
        ],
        &[],
        tokens * shape.blocks(),
    );
    let product = RbProduct {
        layout: layout.clone(),
        tables,
        g: Float::F32,
        residual: Some(42),
        tokens: most,
    };
    let buffers = [
        made[2].clone(),
        made[3].clone(),
        random.bytes(layout.sign_bytes().unwrap()),
        random.floats(layout.scale_count().unwrap()),
        random.floats(tokens * 42),
        vec![0; tokens * 42 * 4],
    ];
    let out = agree(
        &product,
        vectors,
        &buffers,
        &[tokens as i64],
        layout.row_blocks(),
    );
    assert!(out[5].iter().any(|b| *b != 0), "nothing was computed");
}

#[test]
fn residual_binary_layers() {
    for vectors in vectors() {
        for tables in [Tables::Int8, Tables::Int16, Tables::F32] {
            for most in [1, 4] {
                residual_binary(tables, vectors, most);
            }
        }
    }
}

#[test]
fn attention_norm_and_dense_layer() {
    let mut random = Random(5);
    let attention = Attention {
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 11,
        q_stride: 44,
        scale: 0.3,
        window: 17,
        softcap: 20.0,
    };
    let norm = RmsNorm {
        d: 83,
        group: 83,
        x_stride: 83,
        weight: Float::F32,
        eps: 1e-5,
        unit_offset: true,
    };
    let linear = Linear {
        d_in: 83,
        d_out: 7,
        x_stride: 83,
        weight: Weight::Int8,
        row_tile: 2,
        token_tile: 1,
    };
    for vectors in vectors() {
        let cache = || 2 * 48 * 11;
        let buffers = [
            random.floats(2 * 44),
            random.floats(cache()),
            random.floats(cache()),
            vec![0; 2 * 44 * 4],
        ];
        agree(&attention, vectors, &buffers, &[21, 48], 8);
        let buffers = [
            random.floats(3 * 83),
            random.floats(83),
            vec![0; 3 * 83 * 4],
        ];
        agree(&norm, vectors, &buffers, &[], 3);
        let buffers = [
            random.floats(3 * 83),
            random.bytes(7 * 83),
            random.floats(7),
            vec![0; 3 * 7 * 4],
        ];
        agree(&linear, vectors, &buffers, &[3], 4);
    }
}
