//! Kernels for wider vectors compute what those for 128 bits do: the same numbers but for the
//! order of f32 additions. Run in the kernel interpreter, which also checks every access.

use rabitc_codegen::kernels::attention::Attention;
use rabitc_codegen::kernels::linear::{Linear, Weight};
use rabitc_codegen::kernels::rb_prepare::{Before, RbPrepare};
use rabitc_codegen::kernels::rb_product::RbProduct;
use rabitc_codegen::kernels::rb_tables::{TableShape, Tables};
use rabitc_codegen::kernels::rms_norm::RmsNorm;
use rabitc_codegen::kernels::{Float, Spec, Vectors};
use rabitc_codegen::kir::interp::{Call, run};
use rabitc_ir::layout::SignLayout;

const WIDTHS: [usize; 3] = [16, 32, 64];

/// All widths, and the one that permutes over its whole vector.
fn all_vectors() -> Vec<Vectors> {
    let whole = Vectors {
        bytes: 64,
        permute: true,
    };
    WIDTHS
        .map(Vectors::plain)
        .into_iter()
        .chain([whole])
        .collect()
}

/// Deterministic numbers in −1..1 (SplitMix64).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn floats(&mut self, n: usize) -> Vec<u8> {
        let mut one = || (self.word() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..n).flat_map(|_| one().to_le_bytes()).collect()
    }

    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.word() as u8).collect()
    }
}

fn call(
    spec: &dyn Spec,
    vectors: Vectors,
    buffers: &mut [&mut Vec<u8>],
    scalars: &[i64],
    items: i64,
) {
    let kernel = spec.build(vectors);
    let buffers = buffers.iter_mut().map(|b| b.as_mut_slice()).collect();
    let call = Call {
        buffers,
        scalars,
        range: 0..items,
        worker: 0,
        fused: true,
    };
    run(&kernel, call).unwrap_or_else(|e| panic!("{} with {vectors:?}: {e}", spec.name()));
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let words = bytes.chunks_exact(4);
    words
        .map(|c| f32::from_le_bytes(c.try_into().unwrap()))
        .collect()
}

/// All results agree to a small part of their largest element.
fn agree(what: &str, results: &[Vec<u8>]) {
    close(what, results, 1e-5);
}

fn close(what: &str, results: &[Vec<u8>], tolerance: f32) {
    let first = floats(&results[0]);
    let largest = first.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    assert!(largest > 0.0, "{what}: nothing was computed");
    for (result, vectors) in results.iter().zip(all_vectors()).skip(1) {
        for (i, (a, b)) in first.iter().zip(floats(result)).enumerate() {
            let close = (a - b).abs() <= tolerance * largest;
            assert!(close, "{what} with {vectors:?}, element {i}: {a} and {b}");
        }
    }
}

fn product(tables: Tables, segments: &[usize], d_in: usize, paths: usize, row_tiles: usize) {
    let layout = SignLayout {
        d_in,
        paths,
        segments: segments.to_vec(),
        row_tiles,
    };
    let shape = TableShape {
        d_in,
        sets: segments.len() * paths,
        tables,
    };
    let (tokens, d_out) = (7usize, segments.iter().sum::<usize>());
    let mut random = Random(d_in as u64);
    let x = random.floats(tokens * d_in);
    let h = random.floats(shape.sets * d_in);
    let signs = random.bytes(layout.sign_bytes().unwrap());
    let g = random.floats(layout.scale_count().unwrap());
    let prepare = RbPrepare {
        shape,
        x_stride: d_in,
        h: Float::F32,
        before: Before::Nothing,
    };
    let product = |tokens| RbProduct {
        layout: layout.clone(),
        tables,
        g: Float::F32,
        residual: None,
        tokens,
    };
    // Each with the code for single tokens and for blocks of them.
    let run = |vectors: Vectors, most: usize| {
        let mut table = vec![0; tokens * shape.token_bytes()];
        let mut scale = vec![0; tokens * shape.scale_bytes()];
        let mut out = vec![0; tokens * d_out * 4];
        let items = (tokens * shape.blocks()) as i64;
        let (mut x, mut h) = (x.clone(), h.clone());
        let mut buffers = [&mut x, &mut h, &mut table, &mut scale];
        call(&prepare, vectors, &mut buffers, &[], items);
        let (mut signs, mut g) = (signs.clone(), g.clone());
        let mut buffers = [&mut table, &mut scale, &mut signs, &mut g, &mut out];
        let blocks = layout.row_blocks() as i64;
        call(
            &product(most),
            vectors,
            &mut buffers,
            &[tokens as i64],
            blocks,
        );
        out
    };
    let single: Vec<_> = all_vectors().into_iter().map(|v| run(v, 1)).collect();
    let block: Vec<_> = all_vectors().into_iter().map(|v| run(v, 8)).collect();
    agree(&product(1).name(), &single);
    agree(&product(8).name(), &block);
    agree(
        "single tokens and blocks",
        &[single[0].clone(), block[0].clone()],
    );
}

#[test]
fn residual_binary_products_do_not_depend_on_the_width() {
    for tables in [Tables::Int8, Tables::Int16, Tables::F32] {
        product(tables, &[64], 256, 1, 1);
        product(tables, &[37, 5], 301, 2, 2);
        product(tables, &[130], 45, 3, 4);
        product(tables, &[1], 1, 1, 1);
    }
}

#[test]
fn attention_does_not_depend_on_the_width() {
    let (heads, head_dim, capacity, start) = (4usize, 10usize, 48usize, 21i64);
    let spec = Attention {
        n_heads: heads,
        n_kv_heads: 2,
        head_dim,
        q_stride: heads * head_dim,
        scale: 0.3,
        window: 17,
        softcap: 20.0,
    };
    let mut random = Random(7);
    let mut q = random.floats(2 * heads * head_dim);
    let mut keys = random.floats(2 * capacity * head_dim);
    let mut values = random.floats(2 * capacity * head_dim);
    let scalars = [start, capacity as i64];
    let results: Vec<_> = all_vectors()
        .into_iter()
        .map(|vectors| {
            let mut out = vec![0; 2 * heads * head_dim * 4];
            let mut buffers = [&mut q, &mut keys, &mut values, &mut out];
            call(&spec, vectors, &mut buffers, &scalars, 2 * heads as i64);
            out
        })
        .collect();
    agree("attention", &results);
}

#[test]
fn dense_products_and_norms_do_not_depend_on_the_width() {
    let (d_in, d_out, tokens) = (83usize, 11usize, 5usize);
    let linear = Linear {
        d_in,
        d_out,
        x_stride: d_in,
        weight: Weight::Float(Float::F32),
        row_tile: 2,
        token_tile: 4,
    };
    let norm = RmsNorm {
        d: d_in,
        group: d_in,
        x_stride: d_in,
        weight: Float::F32,
        eps: 1e-5,
        unit_offset: true,
    };
    let mut random = Random(3);
    let mut x = random.floats(tokens * d_in);
    let mut w = random.floats(d_out * d_in);
    let mut products = Vec::new();
    let mut norms = Vec::new();
    for vectors in all_vectors() {
        let mut out = vec![0; tokens * d_out * 4];
        let items = d_out.div_ceil(2) as i64;
        let count = [tokens as i64];
        call(
            &linear,
            vectors,
            &mut [&mut x, &mut w, &mut out],
            &count,
            items,
        );
        products.push(out);
        let mut out = vec![0; tokens * d_in * 4];
        call(
            &norm,
            vectors,
            &mut [&mut x, &mut w, &mut out],
            &[],
            tokens as i64,
        );
        norms.push(out);
    }
    agree("linear", &products);
    agree("rms_norm", &norms);
}
