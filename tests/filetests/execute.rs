//! Running graphs and passes on behalf of a file test.

use std::collections::BTreeMap;
use std::fmt::Write;

use rabitc_ir::text::parse;
use rabitc_ir::{Data, EvalError, Graph, Interpreter, Tensor, WeightStore};
use rabitc_passes::fitted::FittedStore;
use rabitc_passes::svid::Init;
use rabitc_passes::{PassError, find, run_one};

use crate::directives::FileTest;
use crate::values;

/// Passes that round weights: what they leave is the reference of all that follow.
const LOSSY: [&str; 2] = ["head", "binarize"];
/// How far apart outputs may be, of the largest: some roundings of f32.
const TOLERANCE: f32 = 1e-5;

/// Outputs of one step.
type Outputs = BTreeMap<String, Tensor>;

/// Runs the passes of a test, and gives the graph that the result must compute the same as.
pub fn passes(test: &FileTest, graph: &mut Graph) -> Result<Graph, PassError> {
    let mut reference = graph.clone();
    for name in &test.passes {
        let pass = find(name).expect("checked when the file was read");
        run_one(pass, graph, &test.options)?;
        if LOSSY.contains(&name.as_str()) {
            reference = graph.clone();
        }
    }
    Ok(reference)
}

/// Outputs of every step of a test.
pub fn run(
    test: &FileTest,
    graph: &Graph,
    weights: &dyn WeightStore,
) -> Result<Vec<Outputs>, EvalError> {
    let steps = values::steps(test, graph).map_err(EvalError::new)?;
    let mut interpreter = Interpreter::new(graph, weights);
    steps
        .into_iter()
        .map(|inputs| interpreter.run(inputs))
        .collect()
}

/// Checks that `graph` computes what `reference` does.
pub fn compare(test: &FileTest, reference: &Graph, graph: &Graph) -> Result<(), String> {
    // Scales that the file's graph does not have are fitted, all else is what the file says.
    let written = parse(&test.text).map_err(|e| e.to_string())?;
    let base = values::weights(test, &written)?;
    let store = FittedStore::new(&base, reference, Init::Greedy);
    let run = |graph| run(test, graph, &store).map_err(|e| e.to_string());
    let (expected, found) = (run(reference)?, run(graph)?);
    for (step, (expected, found)) in expected.iter().zip(&found).enumerate() {
        if !expected.keys().eq(found.keys()) {
            return Err("the passes changed the names of the outputs".into());
        }
        for (name, expected) in expected {
            let found = &found[name];
            let distance = distance(found, expected).ok_or("the passes changed a shape")?;
            if distance > TOLERANCE {
                return Err(format!(
                    "step {}, output {name}: {distance:e} off\n{}{}",
                    step + 1,
                    table(expected),
                    table(found)
                ));
            }
        }
    }
    Ok(())
}

/// The largest difference over the largest expected value.
fn distance(found: &Tensor, expected: &Tensor) -> Option<f32> {
    if found.shape != expected.shape {
        return None;
    }
    let largest = expected
        .floats()
        .iter()
        .fold(1e-30f32, |m, x| m.max(x.abs()));
    let pairs = found.floats().iter().zip(expected.floats());
    let worst = pairs.fold(0.0f32, |m, (f, e)| match (f - e).abs() {
        d if d.is_nan() => f32::INFINITY,
        d => m.max(d),
    });
    Some(worst / largest)
}

/// Outputs as a snapshot shows them.
pub fn show(steps: &[Outputs]) -> String {
    let mut out = String::new();
    for (i, outputs) in steps.iter().enumerate() {
        for (name, tensor) in outputs {
            writeln!(out, "step {} {name}: {}", i + 1, tensor.ty()).expect("a String");
            out.push_str(&table(tensor));
        }
    }
    out
}

/// Rows of numbers to six significant digits: what every machine agrees on.
fn table(tensor: &Tensor) -> String {
    let numbers: Vec<f64> = match &tensor.data {
        Data::F32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        Data::I32(v) => v.iter().map(|x| f64::from(*x)).collect(),
        Data::Bytes(v) => v.iter().map(|x| f64::from(*x)).collect(),
    };
    let mut out = String::new();
    for row in numbers.chunks(tensor.width().max(1)) {
        let round = |x: &f64| format!("{x:.5e}").parse::<f64>().expect("a number");
        let row: Vec<_> = row.iter().map(|x| round(x).to_string()).collect();
        writeln!(out, "  {}", row.join(" ")).expect("a String");
    }
    out
}
