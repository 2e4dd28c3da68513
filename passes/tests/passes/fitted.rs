//! The store that fits missing scales.

use std::collections::BTreeMap;

use rabitc_ir::text::parse;
use rabitc_ir::{DType, Data, Graph, Tensor, WeightStore};
use rabitc_passes::fitted::FittedStore;
use rabitc_passes::svid::{Init, fit_scales};
use rabitc_passes::{Options, find, run_one};

/// Two layers of 2 × 3, as the binarize pass leaves them.
fn binarized(paths: usize) -> Graph {
    let text = "graph \"g\" {
      %x = input {name=\"x\", ty=f32[T,3]} : f32[T,3]
      %a.w = weight {name=\"a.weight\", ty=f32[2,3]} : f32[2,3]
      %b.w = weight {name=\"b\", ty=f32[2,3]} : f32[2,3]
      %a = linear(%x, %a.w) : f32[T,2]
      %b = linear(%x, %b.w) : f32[T,2]
      %y = add(%a, %b) : f32[T,2]
      output \"y\" %y
    }";
    let mut graph = parse(text).unwrap();
    let options = Options {
        paths,
        ..Options::default()
    };
    run_one(find("binarize").unwrap(), &mut graph, &options).unwrap();
    graph
}

const DENSE: [f32; 6] = [1.0, -2.0, 0.5, 3.0, 0.25, -1.0];

fn base() -> BTreeMap<String, Tensor> {
    let tensor = |data: [f32; 6]| Tensor::f32(&[2, 3], data.to_vec());
    let weights = [
        ("a.weight", tensor(DENSE)),
        ("b", tensor(DENSE.map(|w| -w))),
        ("other", tensor([0.0; 6])),
    ];
    weights.map(|(name, w)| (name.to_string(), w)).into()
}

#[test]
fn scales_are_named_after_their_weight() {
    let (graph, base) = (binarized(2), base());
    let store = FittedStore::new(&base, &graph, Init::Greedy);
    assert_eq!(store.layers(), 2);
    for (name, shape) in [
        ("a.rb_g", vec![2, 2]),
        ("a.rb_h", vec![2, 3]),
        ("b.rb_g", vec![2, 2]),
        ("b.rb_h", vec![2, 3]),
    ] {
        assert_eq!(store.info(name), Some((DType::F16, shape)), "{name}");
    }
    assert_eq!(store.info("a.weight"), Some((DType::F32, vec![2, 3])));
    for unknown in ["other.rb_g", "a.weight.rb_g", "c"] {
        assert_eq!(store.info(unknown), None, "{unknown}");
        let error = store.load(unknown).unwrap_err().to_string();
        assert_eq!(error, format!("there is no weight named `{unknown}`"));
    }
}

#[test]
fn scales_are_those_of_the_fit() {
    let (graph, base) = (binarized(3), base());
    for init in [Init::Greedy, Init::Iterative { iters: 5 }] {
        let store = FittedStore::new(&base, &graph, init);
        let scales = fit_scales(&DENSE, 2, 3, 3, init).unwrap();
        for (name, fitted) in [("a.rb_g", &scales.g), ("a.rb_h", &scales.h)] {
            let expected: Vec<f32> = fitted.iter().map(|x| x.to_f32()).collect();
            let loaded = store.load(name).unwrap();
            assert_eq!(loaded.data, Data::F32(expected));
            let (dtype, shape) = store.info(name).unwrap();
            assert_eq!((loaded.dtype, &loaded.shape), (dtype, &shape));
            let bytes: Vec<u8> = fitted.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(store.raw(name).unwrap(), bytes);
            assert_eq!(
                store.load(name).unwrap(),
                loaded,
                "kept, and the same again"
            );
        }
    }
}

#[test]
fn everything_else_comes_from_the_checkpoint() {
    let (graph, base) = (binarized(2), base());
    let store = FittedStore::new(&base, &graph, Init::Greedy);
    for name in ["a.weight", "b", "other"] {
        assert_eq!(store.load(name).unwrap(), base[name]);
        assert_eq!(store.raw(name).unwrap(), base[name].to_le_bytes());
    }
}

#[test]
fn scales_that_the_checkpoint_has_are_not_fitted() {
    let (graph, mut base) = (binarized(2), base());
    let g = Tensor::f32(&[2, 2], vec![9.0; 4]);
    base.insert("a.rb_g".into(), g.clone());
    base.insert("a.rb_h".into(), Tensor::f32(&[2, 3], vec![9.0; 6]));
    let store = FittedStore::new(&base, &graph, Init::Greedy);
    assert_eq!(store.layers(), 1);
    assert_eq!(store.load("a.rb_g").unwrap(), g);
    assert_ne!(store.load("b.rb_g").unwrap(), g);
}

#[test]
fn one_scale_without_the_other_is_an_error() {
    let (graph, mut base) = (binarized(2), base());
    base.insert("a.rb_g".into(), Tensor::f32(&[2, 2], vec![9.0; 4]));
    let store = FittedStore::new(&base, &graph, Init::Greedy);
    let error = store.load("a.rb_h").unwrap_err().to_string();
    assert_eq!(error, "there is no weight named `a.rb_h`");
}

#[test]
fn errors_name_the_weight() {
    let graph = binarized(2);
    let error = |weight: Option<Tensor>| {
        let mut base = base();
        base.remove("a.weight");
        base.extend(weight.map(|w| ("a.weight".to_string(), w)));
        let store = FittedStore::new(&base, &graph, Init::Greedy);
        store.load("a.rb_g").unwrap_err().to_string()
    };
    assert_eq!(error(None), "there is no weight named `a.weight`");
    let nan = [1.0, 2.0, 3.0, f32::NAN, 5.0, 6.0];
    let not_finite = error(Some(Tensor::f32(&[2, 3], nan.to_vec())));
    let expected =
        "weight `a.weight`: weight[1, 0] is NaN; residual-binary scales need finite weights";
    assert_eq!(not_finite, expected);
    let ints = error(Some(Tensor::i32(&[2, 3], vec![1; 6])));
    assert_eq!(
        ints,
        "weight `a.weight`: is i32[2,3], the graph has [2,3] floats"
    );
    let turned = error(Some(Tensor::f32(&[3, 2], vec![1.0; 6])));
    assert_eq!(
        turned,
        "weight `a.weight`: is f32[3,2], the graph has [2,3] floats"
    );
    let large = error(Some(Tensor::f32(&[2, 3], vec![1e30; 6])));
    assert!(large.starts_with("weight `a.weight`: the scales of path 0 exceed the f16 range"));
}

#[test]
fn threads_may_ask_at_once() {
    let (graph, base) = (binarized(2), base());
    let store = FittedStore::new(&base, &graph, Init::Greedy);
    let loaded: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| store.load("a.rb_g").unwrap()))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(loaded.iter().all(|x| *x == loaded[0]));
}
