//! Tests of the choice by measurement.

use rabitc_codegen::cuda::plan::GpuOptions;

use super::super::super::cache::Timing;
use super::super::demand::of_config;
use super::super::entry::{Gpu, GpuCandidate, StepTime, StepTimes};
use super::*;

/// The products of a small model.
fn products() -> Vec<Product> {
    demanded("llama-1.1b.json", "sm_90".parse().unwrap())
}

/// The products of a model in `benches/configs/`.
fn demanded(config: &str, arch: SmArch) -> Vec<Product> {
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/configs/").to_owned() + config;
    let options = GpuOptions { arch, planes: 16 };
    let demand = of_config(config.as_ref(), &rabitc_passes::Options::default(), options);
    demand.unwrap().plan.products
}

/// An entry in which the candidates with these numbers take so many nanoseconds.
fn entry(product: &Product, gpu: &str, times: &[(usize, f64)]) -> GpuEntry {
    let candidate = |&(n, ns): &(usize, f64)| GpuCandidate {
        kernel: product.candidates[n].spec.name(),
        time: Timing::of(&[ns]).unwrap(),
        estimate_ns: 1.0,
    };
    GpuEntry {
        gpu: Gpu {
            gpu: gpu.into(),
            arch: product.arch,
            driver: "CUDA 0.0".into(),
            generator: generator(product),
        },
        problem: product.problem.clone(),
        candidates: times.iter().map(candidate).collect(),
        step: None,
    }
}

/// The same with times in layers, a noise of 1 and the chosen candidate's number.
fn stepped(entry: GpuEntry, product: &Product, times: &[(usize, f64)], chosen: usize) -> GpuEntry {
    let kernel = |n: usize| product.candidates[n].spec.name();
    let times = times.iter().map(|&(n, ns)| StepTime {
        kernel: kernel(n),
        time: Timing::of(&[ns]).unwrap(),
    });
    GpuEntry {
        step: Some(StepTimes {
            positions: 1,
            chosen: kernel(chosen),
            noise_ns: 1.0,
            times: times.collect(),
        }),
        ..entry
    }
}

fn tables(own: Vec<GpuEntry>, shipped: Vec<GpuEntry>) -> GpuTables {
    GpuTables { own, shipped }
}

#[test]
fn a_configuration_has_one_product_a_shape_and_program() {
    let products = products();
    let of = |tokens: usize| products.iter().filter(move |p| p.task.tokens == tokens);
    assert_eq!(of(1).count(), 4);
    for product in of(1) {
        assert_eq!(
            (product.launches, product.chosen),
            (22, 0),
            "{}",
            product.problem
        );
    }
}

#[test]
fn the_fastest_of_the_own_cache_comes_first() {
    let product = &products()[0];
    let own = entry(product, "Card", &[(0, 5.0), (3, 4.0)]);
    let shipped = entry(product, "Other", &[(0, 5.0), (2, 4.0)]);
    let found = tables(vec![own], vec![shipped.clone()]).find(product);
    assert_eq!(found, Some((3, "measured on Card".into())));
    let found = tables(Vec::new(), vec![shipped]).find(product);
    assert_eq!(found, Some((2, "measured on Other".into())));
    assert_eq!(GpuTables::default().find(product), None);
}

#[test]
fn several_cards_are_weighed_by_their_own_best() {
    let product = &products()[0];
    // Candidate 1 is the best of neither, and the least bad on both.
    let first = entry(product, "A", &[(0, 10.0), (1, 11.0), (2, 20.0)]);
    let second = entry(product, "B", &[(0, 200.0), (1, 110.0), (2, 100.0)]);
    let found = tables(vec![first, second], Vec::new()).find(product);
    assert_eq!(found, Some((1, "measured on A, B".into())));
}

#[test]
fn layers_decide_where_they_were_measured() {
    let product = &products()[0];
    let found = |entries| tables(entries, Vec::new()).find(product).map(|(n, _)| n);
    let in_link = entry(product, "A", &[(0, 9.0), (1, 1.0), (2, 5.0)]);
    let layers = stepped(
        in_link.clone(),
        product,
        &[(0, 90.0), (2, 80.0), (3, 79.5)],
        2,
    );
    assert_eq!(
        found(vec![layers.clone()]),
        Some(2),
        "3 gains no more than noise"
    );
    assert_eq!(found(vec![in_link.clone()]), Some(1));
    // Of two cards: what is least bad, or the same on both; links, where a card has no layers.
    let other = |times: &[(usize, f64)], chosen| {
        let other = entry(product, "B", &[(0, 9.0), (1, 1.0)]);
        stepped(other, product, times, chosen)
    };
    let both = |times: &[(usize, f64)], chosen| vec![layers.clone(), other(times, chosen)];
    assert_eq!(found(both(&[(0, 10.0), (2, 30.0)], 0)), Some(0));
    assert_eq!(found(both(&[(0, 30.0), (2, 30.5), (3, 30.2)], 0)), Some(2));
    assert_eq!(
        found(both(&[(5, 30.0)], 5)),
        Some(1),
        "no candidate has layers on both"
    );
    assert_eq!(
        found(vec![layers, entry(product, "B", &[(1, 1.0)])]),
        Some(1)
    );
}

#[test]
fn times_of_other_code_do_not_count() {
    let product = &products()[0];
    let good = entry(product, "Card", &[(1, 5.0)]);
    let mut other_code = good.clone();
    other_code.gpu.generator.push('0');
    let mut other_arch = good.clone();
    other_arch.gpu.arch = "sm_80".parse().unwrap();
    let mut other_problem = good.clone();
    other_problem.problem.push('0');
    let mut gone = good.clone();
    gone.candidates[0].kernel.push('0');
    for bad in [other_code, other_arch, other_problem, gone] {
        assert_eq!(tables(vec![bad], Vec::new()).find(product), None);
    }
    let found = tables(vec![good], Vec::new()).find(product);
    assert_eq!(found.map(|(n, _)| n), Some(1));
}

/// A table as `tune` writes it into a file.
fn written(entries: Vec<GpuEntry>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("card.json");
    Cache::add_gpus(&path, entries).unwrap();
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn a_table_that_tune_writes_can_ship() {
    let products = products();
    let last = |p: &Product| p.candidates.len() - 1;
    let entries = products
        .iter()
        .map(|p| entry(p, "Card", &[(0, 2.0), (last(p), 1.0)]));
    let text = written(entries.collect());
    let tables = GpuTables::of_texts(&[("card.json", &text)]).unwrap();
    assert!(tables.own.is_empty());
    for product in &products {
        let found = tables.find(product);
        assert_eq!(found, Some((last(product), "measured on Card".into())));
    }
    let error = GpuTables::of_texts(&[("card.json", &text[1..])]).unwrap_err();
    assert!(error.to_string().contains("data/tune/card.json"), "{error}");
}

/// Whether a table has times of the kernels as they are, for every product of a 7 B model on the
/// architecture that it is for.
fn is_current(text: &str) -> bool {
    let table = GpuTables::of_texts(&[("", text)]).unwrap();
    let Some(first) = table.shipped.first() else {
        return false;
    };
    let products = demanded("llama2-7b.json", first.gpu.arch);
    products.iter().all(|p| table.find(p).is_some())
}

#[test]
fn what_ships_is_what_is_listed_and_of_these_kernels() {
    let list = include_str!("../../../data/tune/README.md").lines();
    let listed: Vec<&str> = list
        .filter_map(|line| line.strip_prefix("- `")?.split('`').next())
        .collect();
    let names: Vec<&str> = SHIPPED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, listed, "files in data/tune/, and its README");
    for (name, text) in SHIPPED {
        assert!(
            is_current(text),
            "data/tune/{name} is of other kernels: measure anew (`scripts/gpu-check … tune`), or \
             take it out of the folder and its README"
        );
    }
}

#[test]
fn tables_of_other_kernels_are_noticed() {
    let products = demanded("llama2-7b.json", "sm_80".parse().unwrap());
    let all = products.iter().map(|p| entry(p, "Card", &[(0, 1.0)]));
    let mut entries: Vec<_> = all.collect();
    assert!(is_current(&written(entries.clone())));
    entries[0].gpu.generator.push('0');
    assert!(!is_current(&written(entries.clone())));
    assert!(!is_current(&written(entries[1..].to_vec())));
    assert!(!is_current(&written(Vec::new())));
}
