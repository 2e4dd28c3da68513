//! GPU kernels of several tokens: snapshots of what is emitted, and NVRTC's opinion of it.

mod cuda_chains;

use cuda_chains::chains;
use rabitc_codegen::cuda::kernels::attention_tokens::AttentionTokens;
use rabitc_codegen::cuda::kernels::cached_attention::CachedAttention;
use rabitc_codegen::cuda::kernels::finish::Finish;
use rabitc_codegen::cuda::kernels::heads::Chains;
use rabitc_codegen::cuda::kernels::linear::Weight;
use rabitc_codegen::cuda::kernels::linear_tokens::LinearTokens;
use rabitc_codegen::cuda::kernels::rb_tokens::{RbTokens, TokenTile};
use rabitc_codegen::cuda::kernels::rb_tokens_wgmma::{GroupTile, RbTokensWgmma};
use rabitc_codegen::cuda::kernels::several_tokens::SeveralTokens;
use rabitc_codegen::cuda::layout::GpuLayout;
use rabitc_codegen::cuda::plan::cheapest;
use rabitc_codegen::cuda::{Compiler, CudaSpec};
use rabitc_codegen::kernels::Float;
use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

fn arch(name: &str) -> SmArch {
    name.parse().expect("an architecture")
}

fn layout(segments: &[usize], d_in: usize, paths: usize, paired: bool) -> GpuLayout {
    let stored = SignLayout {
        d_in,
        paths,
        segments: segments.to_vec(),
        row_tiles: 4,
    };
    GpuLayout { stored, paired }
}

/// A product that is not cut yet.
fn product(
    layout: GpuLayout,
    tokens: usize,
    planes: usize,
    finish: Finish,
    norm: bool,
) -> SeveralTokens {
    let x_stride = layout.stored.d_in;
    SeveralTokens {
        x_aligned: x_stride.is_multiple_of(8),
        layout,
        tokens,
        planes,
        norm: norm.then_some(1e-5),
        x_stride,
        finish,
        by_rows: false,
    }
}

/// How it is cut for architectures with clusters.
fn by_groups(of: SeveralTokens) -> RbTokensWgmma {
    let tile = GroupTile::UNCUT;
    cheapest(&RbTokensWgmma { of, tile }, arch(SM_90)).expect("it fits")
}

/// How it is cut for those without; `None` if that does not fit.
fn by_warps(of: SeveralTokens, arch: SmArch) -> Option<RbTokens> {
    let tile = TokenTile::UNCUT;
    cheapest(&RbTokens { of, tile }, arch)
}

/// (name, product)
fn products() -> Vec<(&'static str, SeveralTokens)> {
    let qkv = || layout(&[4096; 3], 4096, 2, false);
    let o = || layout(&[4096], 4096, 2, false);
    let gate_up = || layout(&[11008; 2], 4096, 2, true);
    let down = || layout(&[4096], 11008, 2, false);
    let odd = layout(&[37, 5], 301, 3, false);
    let small = layout(&[37, 37], 301, 1, true);
    let silu = Finish::Gate(Activation::Silu);
    let gelu = Finish::Gate(Activation::GeluTanh);
    let (store, add) = (Finish::Store, Finish::Residual(4096));
    vec![
        ("qkv_4", product(qkv(), 4, 16, store, true)),
        ("qkv_8", product(qkv(), 8, 16, store, true)),
        ("qkv_16", product(qkv(), 16, 16, store, true)),
        ("qkv_8_planes", product(qkv(), 8, 8, store, true)),
        ("o_4", product(o(), 4, 16, add, false)),
        ("o_8", product(o(), 8, 16, add, false)),
        ("o_16", product(o(), 16, 16, add, false)),
        ("gate_up_4", product(gate_up(), 4, 16, silu, true)),
        ("gate_up_8", product(gate_up(), 8, 16, silu, true)),
        ("gate_up_16", product(gate_up(), 16, 16, silu, true)),
        ("down_4", product(down(), 4, 16, add, false)),
        ("down_8", product(down(), 8, 16, add, false)),
        ("down_16", product(down(), 16, 16, add, false)),
        ("odd_2", product(odd.clone(), 2, 16, store, true)),
        ("odd_2_planes", product(odd, 2, 8, store, false)),
        ("gelu_16", product(small, 16, 8, gelu, true)),
    ]
}

fn attention(
    (n_heads, n_kv_heads, head_dim): (usize, usize, usize),
    tokens: usize,
    window: usize,
    softcap: f32,
    chains: Chains,
) -> AttentionTokens {
    AttentionTokens {
        over: CachedAttention {
            n_heads,
            n_kv_heads,
            head_dim,
            splits: 8,
            scale: 0.125,
            window,
            softcap,
            chains,
        },
        tokens,
    }
}

/// (name, attention)
fn attentions() -> Vec<(&'static str, AttentionTokens)> {
    let plain = chains(12288, false, false);
    let (grouped, gemma) = (chains(6144, true, false), chains(1536, true, true));
    let odd = chains(54, false, true);
    vec![
        ("attention_4", attention((32, 32, 128), 4, 0, 0.0, plain)),
        (
            "attention_16",
            attention((32, 8, 128), 16, 0, 30.0, grouped),
        ),
        (
            "attention_gemma",
            attention((4, 1, 256), 4, 512, 0.0, gemma),
        ),
        ("attention_odd", attention((3, 3, 6), 8, 7, 2.5, odd)),
    ]
}

/// (name, dense product)
fn linears() -> Vec<(&'static str, LinearTokens)> {
    let linear = |weight, tokens, d_out, d_in| LinearTokens {
        d_in,
        d_out,
        x_stride: d_in,
        weight,
        tokens,
        by_rows: true,
    };
    let bf16 = Weight::Float(Float::BF16);
    vec![
        ("head_4", linear(bf16, 4, 32000, 4096)),
        ("head_16", linear(bf16, 16, 32000, 4096)),
        (
            "linear_f16",
            linear(Weight::Float(Float::F16), 16, 320, 120),
        ),
        ("linear_f32", linear(Weight::Float(Float::F32), 8, 37, 1000)),
        ("linear_int8", linear(Weight::Int8, 16, 320, 4096)),
    ]
}

/// All kernels, cut for an architecture. Large products have a kernel for each; some are left to
/// kernels of one token where shared memory is small.
fn kernels(arch: SmArch) -> Vec<(&'static str, Box<dyn CudaSpec>)> {
    let mut all: Vec<(&'static str, Box<dyn CudaSpec>)> = Vec::new();
    for (name, product) in products() {
        if arch.has_clusters() {
            all.push((name, Box::new(by_groups(product))));
        } else if let Some(product) = by_warps(product, arch) {
            all.push((name, Box::new(product)));
        }
    }
    for (name, attention) in attentions() {
        if attention.shared_bytes() <= arch.shared_bytes() {
            all.push((name, Box::new(attention)));
        }
    }
    for (name, linear) in linears() {
        all.push((name, Box::new(linear)));
    }
    all
}

const SM_90: &str = "sm_90";
const SNAPSHOTS: [&str; 11] = [
    "qkv_4",
    "qkv_8_planes",
    "o_8",
    "gate_up_8",
    "down_16",
    "odd_2",
    "gelu_16",
    "attention_16",
    "attention_odd",
    "head_16",
    "linear_int8",
];

/// Of the kernels for architectures without clusters.
const SNAPSHOTS_OF_SM_80: [&str; 2] = ["o_4", "odd_2"];

#[test]
fn what_is_emitted_does_not_change_by_itself() {
    let sets: [(&str, &str, &[&str]); 2] = [
        (SM_90, "", &SNAPSHOTS),
        ("sm_80", "_sm_80", &SNAPSHOTS_OF_SM_80),
    ];
    for (arch_name, suffix, names) in sets {
        let kernels = kernels(arch(arch_name));
        for name in names {
            let (_, spec) = kernels.iter().find(|k| k.0 == *name).expect("a kernel");
            let source = spec.source(arch(arch_name));
            assert_eq!(source.name, spec.name());
            insta::with_settings!({ snapshot_path => "cuda_tokens", prepend_module_to_snapshot => false, omit_expression => true }, {
                insta::assert_snapshot!(format!("{name}{suffix}"), source.text);
            });
        }
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture_and_none_spills() {
    let compiler = match Compiler::new() {
        Ok(compiler) => compiler,
        Err(error) => return println!("skipped: {error}"),
    };
    for arch in ["sm_80", "sm_89", SM_90].map(arch) {
        for (name, spec) in kernels(arch) {
            let source = spec.source(arch);
            assert!(source.shared as usize <= arch.shared_bytes(), "{name}");
            let compiled = compiler.compile(&source, arch);
            let r = compiled.unwrap_or_else(|e| panic!("{name}: {e}")).resources;
            let spilled = (r.spill_stores, r.spill_loads);
            assert_eq!(spilled, (0, 0), "{name} for {arch} spills: {r:?}");
            println!("{name} {arch}: {r:?}, {}", source.name);
        }
    }
}

#[test]
fn products_of_large_layers_keep_their_tokens_together() {
    for (name, wanted) in products() {
        let tokens = wanted.tokens;
        let chosen = by_groups(wanted);
        // Shared memory holds the planes of so many inputs for eight tokens, not for sixteen.
        let least = if name == "down_16" { 8 } else { tokens };
        assert_eq!(chosen.of.tokens, least, "{name}");
        assert!(chosen.grid() <= 132, "{name}: {} blocks", chosen.grid());
        assert!(chosen.shared_bytes() <= arch(SM_90).shared_bytes());
    }
}

#[test]
fn what_does_not_fit_is_left_to_others() {
    let wide = layout(&[4096], 1 << 20, 4, false);
    let wanted = product(wide, 16, 16, Finish::Store, false);
    assert_eq!(by_warps(wanted, arch("sm_89")), None);
    let tall = layout(&[4096], 28672, 2, false);
    let halved = by_groups(product(tall, 16, 16, Finish::Store, false));
    assert!((2..16).contains(&halved.of.tokens));
}
