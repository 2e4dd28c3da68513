//! Values of inputs and weights: those that a file gives, and pseudo-random ones.

use std::collections::BTreeMap;

use rabitc_ir::{DType, Data, Dim, Graph, Op, Tensor, Type};

use crate::directives::FileTest;

/// SplitMix64 seeded with a name, so that a value depends on nothing else.
struct Rng(u64);

impl Rng {
    fn named(name: &str) -> Self {
        let hash = |h: u64, b: u8| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        Rng(name.bytes().fold(0xcbf2_9ce4_8422_2325, hash))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in −1..1 that every float type holds.
    fn number(&mut self) -> f64 {
        (self.next() >> 57) as f64 / 64.0 - 1.0
    }
}

/// A tensor of a fixed shape from numbers; bits are 0 or 1 a sign.
fn tensor(dtype: DType, shape: &[usize], numbers: &[f64]) -> Result<Tensor, String> {
    let ty = Type::fixed(dtype, shape);
    if numbers.len() != shape.iter().product::<usize>() {
        return Err(format!("{} values do not fill {ty}", numbers.len()));
    }
    let data = match dtype {
        DType::I32 => Data::I32(numbers.iter().map(|x| *x as i32).collect()),
        DType::I8 => Data::Bytes(numbers.iter().map(|x| *x as i8 as u8).collect()),
        DType::U8 => Data::Bytes(numbers.iter().map(|x| *x as u8).collect()),
        DType::Bit => {
            let width = shape.last().copied().unwrap_or(1).max(1);
            let rows = numbers.chunks(width).flat_map(|row| row.chunks(8));
            let byte = |eight: &[f64]| {
                let bits = eight.iter().enumerate();
                bits.fold(0, |byte, (i, x)| byte | u8::from(*x > 0.0) << i)
            };
            Data::Bytes(rows.map(byte).collect())
        }
        _ => Data::F32(numbers.iter().map(|x| *x as f32).collect()),
    };
    let shape = shape.to_vec();
    Ok(Tensor { dtype, shape, data })
}

/// A value for every weight of the graph.
pub fn weights(test: &FileTest, graph: &Graph) -> Result<BTreeMap<String, Tensor>, String> {
    let mut out = BTreeMap::new();
    for id in graph.order() {
        let Op::Weight(weight) = graph.op(id) else {
            continue;
        };
        let shape = weight.ty.fixed_shape().ok_or("a weight of unknown size")?;
        let n = shape.iter().product();
        let mut rng = Rng::named(&weight.name);
        let random = || (0..n).map(|_| rng.number()).collect();
        let numbers = test.weights.get(&weight.name).cloned();
        let value = tensor(weight.ty.dtype, &shape, &numbers.unwrap_or_else(random))
            .map_err(|e| format!("weight `{}`: {e}", weight.name))?;
        out.insert(weight.name.clone(), value);
    }
    match test.weights.keys().find(|name| !out.contains_key(*name)) {
        Some(name) => Err(format!("the graph has no weight `{name}`")),
        None => Ok(out),
    }
}

/// Values for every input, step by step.
pub fn steps(test: &FileTest, graph: &Graph) -> Result<Vec<BTreeMap<String, Tensor>>, String> {
    let types = inputs(graph);
    if let Some(name) = test.inputs.keys().find(|name| !types.contains_key(*name)) {
        return Err(format!("the graph has no input `{name}`"));
    }
    // Without a word about inputs: three tokens, then one more.
    let count = test.inputs.values().map(Vec::len).max().unwrap_or(2);
    let mut first = 0;
    let mut steps = Vec::new();
    for step in 0..count {
        let sizes = sizes(test, &types, step)?;
        let mut values = BTreeMap::new();
        for (name, ty) in &types {
            let shape: Vec<_> = ty.shape.iter().map(|d| size(*d, sizes)).collect();
            let given = test.inputs.get(name).and_then(|s| s.get(step)).cloned();
            let numbers = given.unwrap_or_else(|| default(name, ty, &shape, step, first, sizes));
            let value = tensor(ty.dtype, &shape, &numbers);
            values.insert(
                name.clone(),
                value.map_err(|e| format!("input `{name}`: {e}"))?,
            );
        }
        first += sizes[0];
        steps.push(values);
    }
    Ok(steps)
}

fn inputs(graph: &Graph) -> BTreeMap<String, Type> {
    let ids = graph.order().into_iter();
    ids.filter_map(|id| match graph.op(id) {
        Op::Input(input) => Some((input.name.clone(), input.ty.clone())),
        _ => None,
    })
    .collect()
}

fn size(dim: Dim, [tokens, rows]: [usize; 2]) -> usize {
    match dim {
        Dim::Fixed(n) => n,
        Dim::Tokens => tokens,
        Dim::Rows => rows,
    }
}

/// `T` and `R` of a step, from the lengths of the lists that the file gives for it.
fn sizes(
    test: &FileTest,
    types: &BTreeMap<String, Type>,
    step: usize,
) -> Result<[usize; 2], String> {
    let mut sizes = [if step == 0 { 3 } else { 1 }, 1];
    for (name, steps) in &test.inputs {
        let Some(list) = steps.get(step) else {
            return Err(format!(
                "input `{name}` has no values for step {}",
                step + 1
            ));
        };
        let shape = &types[name].shape;
        let fixed: usize = shape.iter().filter_map(|d| d.fixed()).product();
        match shape.iter().find(|d| d.fixed().is_none()) {
            Some(Dim::Rows) => sizes[1] = list.len() / fixed.max(1),
            Some(_) => sizes[0] = list.len() / fixed.max(1),
            None => {}
        }
    }
    Ok(sizes)
}

/// Consecutive positions; the last row; small ids; else pseudo-random numbers.
fn default(
    name: &str,
    ty: &Type,
    shape: &[usize],
    step: usize,
    first: usize,
    sizes: [usize; 2],
) -> Vec<f64> {
    let n = shape.iter().product();
    let mut rng = Rng::named(&format!("{name} {step}"));
    match (ty.dtype, name) {
        (DType::I32, "positions") => (0..n).map(|i| (first + i) as f64).collect(),
        (DType::I32, _) if ty.shape == [Dim::Rows] => vec![sizes[0] as f64 - 1.0; n],
        (DType::I32, _) => (0..n).map(|_| (rng.next() % 3) as f64).collect(),
        _ => (0..n).map(|_| rng.number()).collect(),
    }
}
