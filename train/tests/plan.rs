//! Plans of training steps: run by the definitions of the ops, in the memory that the plan lays
//! out, they compute what the graph computes.

mod common;

use std::collections::{BTreeMap, HashSet};

use common::{Setup, Step};
use rabitc_codegen::train::{self, Options, Place, Plan, View, memory, reference};
use rabitc_ir::ops::effective_weight::Derive;
use rabitc_ir::ops::squared_error::Normalize;
use rabitc_ir::{DType, Data, Graph, Interpreter, Tensor};

fn options(step: &Step, storage: DType) -> Options {
    let trained: HashSet<String> = step.trained.iter().cloned().collect();
    let tokens = step.tokens;
    Options {
        tokens,
        storage,
        trained,
        join_norms: true,
    }
}

/// A plan's memory.
struct Memory<'a> {
    plan: &'a Plan,
    step: &'a Step,
    /// Elements, 4 bytes each whatever the type: f32 plans only.
    arena: Vec<f32>,
    gradients: BTreeMap<String, Vec<f32>>,
}

impl Memory<'_> {
    fn read(&self, view: View) -> Tensor {
        let value = &self.plan.values[view.value];
        let floats: &[f32] = match &value.place {
            Place::Arena(offset) => &self.arena[offset / 4..],
            Place::Constant(data) => data,
            Place::Weight(name) => self.step.weights[name].floats(),
            Place::Gradient(name) => &self.gradients[name],
            Place::Input(name) => {
                let input = self.step.inputs.iter().find(|(n, _)| n == name);
                return Tensor::i32(&[view.columns], input.expect("given").1.clone());
            }
        };
        let row = |row: usize| &floats[view.offset + row * view.stride..][..view.columns];
        let data = (0..view.rows).flat_map(row).copied().collect();
        Tensor::f32(&[view.rows, view.columns], data)
    }

    fn write(&mut self, view: View, from: &Tensor) {
        let to = match &self.plan.values[view.value].place {
            Place::Arena(offset) => &mut self.arena[offset / 4..],
            Place::Gradient(name) => self.gradients.get_mut(name).expect("trained"),
            place => panic!("a step writes to {place:?}"),
        };
        for (row, from) in from.floats().chunks(view.columns).enumerate() {
            to[view.offset + row * view.stride..][..view.columns].copy_from_slice(from);
        }
    }
}

/// Runs a plan twice and gives its outputs and half of the gradients held.
fn run(plan: &Plan, step: &Step) -> BTreeMap<String, Tensor> {
    let weights = step.trained.iter();
    let gradients =
        weights.map(|name| (name.clone(), vec![0.0; step.weights[name].floats().len()]));
    let mut memory = Memory {
        plan,
        step,
        // What was never written must not be read.
        arena: vec![f32::NAN; plan.arena / 4],
        gradients: gradients.collect(),
    };
    for _ in 0..2 {
        for planned in &plan.steps {
            let results = reference::evaluate(plan, planned, &mut |view| memory.read(view));
            let results = results.unwrap_or_else(|e| panic!("{}: {e}", planned.node()));
            for (view, result) in planned.results().into_iter().zip(results) {
                memory.write(view, &result);
            }
        }
    }
    let mut out = BTreeMap::new();
    for (name, value) in &plan.outputs {
        let found = &plan.values[*value];
        let view = View {
            value: *value,
            offset: 0,
            rows: found.rows,
            columns: found.columns,
            stride: found.columns,
        };
        out.insert(name.clone(), memory.read(view));
    }
    for (name, sum) in memory.gradients {
        let data = sum.iter().map(|x| x / 2.0).collect();
        out.insert(format!("grad.{name}"), Tensor::f32(&[sum.len()], data));
    }
    out
}

/// The plan's results against the interpreter's. Both round every stored value to f32, at places
/// that differ where steps are fused: some hundred roundings lie between a weight and the loss.
#[track_caller]
fn agrees(folder: &str, setup: &Setup) {
    let step = common::step(&common::model(folder), setup);
    let inputs = step.inputs.iter();
    let inputs = inputs.map(|(n, v)| (n.clone(), Tensor::i32(&[v.len()], v.clone())));
    let expected = Interpreter::new(&step.graph, &step.weights).run(inputs);
    let expected = expected.unwrap_or_else(|e| panic!("{e}"));
    let plan = train::plan(&step.graph, &options(&step, DType::F32));
    let plan = plan.unwrap_or_else(|e| panic!("{e}"));
    let found = run(&plan, &step);
    assert_eq!(found.len(), expected.len());
    for (name, expected) in &expected {
        let Data::F32(expected) = &expected.data else {
            panic!("{name}")
        };
        let norm = expected
            .iter()
            .map(|x| f64::from(*x).powi(2))
            .sum::<f64>()
            .sqrt();
        let apart = found[name].floats().iter().zip(expected);
        let error = apart
            .map(|(a, b)| f64::from(a - b).powi(2))
            .sum::<f64>()
            .sqrt();
        assert!(norm > 0.0, "{folder} {name} is zero");
        assert!(error <= 1e-4 * norm, "{folder} {name}: {error} of {norm}");
    }
}

const FAMILIES: [&str; 6] = ["llama2", "llama3", "mistral", "qwen2", "qwen3", "gemma3"];

#[test]
fn plans_compute_what_graphs_do() {
    for family in FAMILIES {
        agrees(&format!("models/fixtures/{family}"), &Setup::default());
    }
}

#[test]
fn plans_with_recomputation_and_other_losses_do_too() {
    let setups = [
        (Derive::Independent, Normalize::Target, true),
        (Derive::Residual, Normalize::Elements, true),
    ];
    for (derive, normalize, checkpoint) in setups {
        let setup = Setup {
            derive,
            normalize,
            checkpoint,
            paths: 3,
            ..Setup::default()
        };
        agrees("models/fixtures/llama2", &setup);
        agrees("models/fixtures/variants/gemma3-softcap", &setup);
    }
}

/// Values that live at the same time lie apart, at boundaries that vectors and matrix
/// instructions ask for, in an arena no larger than what is needed by twice.
#[test]
fn values_that_live_at_once_lie_apart() {
    for storage in [DType::F32, DType::BF16] {
        let step = common::step(&common::model("models/fixtures/gemma3"), &Setup::default());
        let plan = train::plan(&step.graph, &options(&step, storage)).unwrap();
        let lives = memory::lifetimes(&plan);
        let mut placed = Vec::new();
        for (value, life) in plan.values.iter().zip(&lives) {
            if let (Place::Arena(offset), Some(life)) = (&value.place, life) {
                assert!(offset.is_multiple_of(memory::ALIGNMENT), "{}", value.name);
                assert!(offset + value.bytes() <= plan.arena, "{}", value.name);
                placed.push((*offset, offset + value.bytes(), life, &value.name));
            }
        }
        for (i, a) in placed.iter().enumerate() {
            for b in &placed[..i] {
                let apart_in_time = a.2.last < b.2.first || b.2.last < a.2.first;
                let apart = a.1 <= b.0 || b.1 <= a.0;
                assert!(apart_in_time || apart, "{} and {}", a.3, b.3);
            }
        }
        let alive = |step| {
            placed
                .iter()
                .filter(move |p| p.2.first <= step && step <= p.2.last)
        };
        let most = (0..plan.steps.len())
            .map(|s| alive(s).map(|p| p.1 - p.0).sum::<usize>())
            .max();
        assert!(
            plan.arena <= 2 * most.unwrap(),
            "{} of {most:?}",
            plan.arena
        );
    }
}

/// With 16-bit storage, what grows with the tokens takes little more than half.
#[test]
fn storage_decides_the_memory() {
    let step = common::step(&common::model("models/books-1m"), &Setup::default());
    let arena = |storage| {
        train::plan(&step.graph, &options(&step, storage))
            .unwrap()
            .arena
    };
    let (half, whole) = (arena(DType::BF16), arena(DType::F32));
    assert!(half * 3 < whole * 2, "{half} of {whole}");
    assert!(
        half * 2 > whole,
        "{half} of {whole}: the residual stream is f32"
    );
}

#[test]
fn what_cannot_be_planned_is_named() {
    let step = common::step(&common::model("models/fixtures/llama2"), &Setup::default());
    let error = |graph: &Graph, options: &Options| {
        train::plan(graph, options)
            .expect_err("it cannot be planned")
            .to_string()
    };
    let mut options = options(&step, DType::F32);
    options.tokens += 1;
    let found = error(&step.graph, &options);
    assert!(
        found.contains("attention: 22 tokens are not whole sequences of 7"),
        "{found}"
    );
    options.storage = DType::F16;
    assert!(error(&step.graph, &options).contains("not f16"));
    options.storage = DType::F32;
    let text = "graph \"g\" {
  %x = input {name=\"x\", ty=i32[T]} : i32[T]
  %rows = input {name=\"rows\", ty=i32[R]} : i32[R]
  %w = weight {name=\"w\", ty=f32[5,3]} : f32[5,3]
  %e = embed(%w, %x) {scale=1.0} : f32[T,3]
  %some = select_rows(%e, %rows) : f32[R,3]
  output \"y\" %some
}\n";
    let graph = rabitc_ir::text::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let found = error(&graph, &options);
    assert!(
        found.contains("%rows") || found.contains("%some"),
        "{found}"
    );
    options.tokens = usize::MAX / 2;
    assert!(error(&graph, &options).contains("overflows"));
}

/// What is fused, what is added up where, and what is stored as what.
#[test]
fn a_plan_does_not_change_by_itself() {
    let text = include_str!("plan/block.rbir");
    let model = rabitc_ir::text::parse(text).unwrap_or_else(|e| panic!("{e}"));
    let (graph, trained) = common::graph(&model, &Setup::default());
    let options = Options {
        tokens: 21,
        storage: DType::BF16,
        trained: trained.into_iter().collect(),
        join_norms: true,
    };
    let plan = train::plan(&graph, &options).unwrap_or_else(|e| panic!("{e}"));
    insta::with_settings!({ snapshot_path => "plan", prepend_module_to_snapshot => false, omit_expression => true }, {
        insta::assert_snapshot!("block", plan.to_string());
    });
}
