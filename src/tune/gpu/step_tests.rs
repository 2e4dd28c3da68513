//! Tests of what layers consist of.

use rabitc_codegen::cuda::plan::GpuOptions;
use rabitc_passes::Options;
use rabitc_rbx::gpu::Blocks;

use super::super::demand::of_config;
use super::*;

/// What a model in `benches/configs/` runs on an H100.
fn demand() -> Demand {
    let config = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/benches/configs/llama-1.1b.json"
    );
    let options = GpuOptions {
        arch: "sm_90".parse().unwrap(),
        planes: 16,
    };
    of_config(config.as_ref(), &Options::default(), options).unwrap()
}

/// A program, and its products.
fn program<'a>(demand: &'a Demand, name: &str) -> (&'a GpuProgram, Vec<&'a Product>) {
    let plan = &demand.plan;
    let program = plan.programs.iter().find(|p| p.name == name).unwrap();
    let products = plan.products.iter().filter(|p| p.program == name);
    (program, products.collect())
}

#[test]
fn layers_are_whole_and_have_attention() {
    let demand = demand();
    for name in ["decode", "few_4", "few_16"] {
        let (program, products) = program(&demand, name);
        let size = |step: &GpuStep| {
            let place = place(&demand.plan, &products, step);
            place.map_or(0, |p| products[p].task.layout.sign_bytes())
        };
        let body = &program.steps[..program.head];
        let link: usize = products.iter().map(|p| p.task.layout.sign_bytes()).sum();
        let all = layers(body, &size, usize::MAX);
        assert_eq!(all.end, body.len());
        let three = &body[layers(body, &size, 3 * link)];
        assert_eq!(three.len() * 22, all.len() * 3, "{name}");
        let count = |what: &dyn Fn(&GpuStep) -> bool| three.iter().filter(|s| what(s)).count();
        assert_eq!(count(&|s| size(s) > 0), 12);
        let is_attention = |s: &GpuStep| {
            demand.plan.kernels[s.kernel]
                .name()
                .starts_with("attention")
        };
        assert_eq!(count(&is_attention), 3);
        assert_eq!(layers(body, &size, 3 * link - 1).len(), three.len());
    }
}

#[test]
fn a_program_without_products_has_no_layers() {
    let step = GpuStep {
        node: "x".into(),
        kernel: 0,
        grid: [Blocks::ONE; 3],
        args: Vec::new(),
    };
    assert_eq!(layers(&[step], &|_| 0, 1), 0..0);
}

#[test]
fn arguments_have_places_of_their_own() {
    let demand = demand();
    let (program, _) = program(&demand, "few_8");
    let mut places = Places::new(&demand, program, 8);
    let mut ranges = vec![(places.arena, program.arena_bytes)];
    for arg in program.steps[..program.head].iter().flat_map(|s| &s.args) {
        let at = places.of(arg).unwrap();
        assert_eq!(places.of(arg).unwrap(), at);
        match arg {
            GpuArg::Arena(offset) => assert_eq!(at, places.arena + offset),
            _ => ranges.push((at, places.bytes(arg).unwrap())),
        }
    }
    ranges.sort_unstable();
    ranges.dedup();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
    }
    let (last, bytes) = ranges[ranges.len() - 1];
    assert!(last + bytes <= places.end);
    // 256 positions and 8 tokens in units of 16; four heads of 64 channels in f16.
    assert_eq!(places.bytes(&GpuArg::Keys(0)).unwrap(), 272 * 4 * 64 * 2);
    for arg in [GpuArg::Seen, GpuArg::Keys(22), GpuArg::Weight("?".into())] {
        let error = places.of(&arg).unwrap_err().to_string();
        assert!(error.contains("nothing that a layer reads"), "{error}");
    }
}

#[test]
fn numbers_are_small_in_every_form() {
    for pair in numbers().chunks_exact(2) {
        let f32 = f32::from_bits(u32::from(pair[0]) | u32::from(pair[1]) << 16);
        assert!((1e-10..1e-4).contains(&f32.abs()), "{f32}");
        let f16 = half::f16::from_bits(pair[0]).to_f32();
        assert!((0.125..0.5).contains(&f16.abs()), "{f16}");
    }
}
