//! What the tests share: a small random generator, short ways to write tensors and run one op.

use std::collections::BTreeMap;

use rabitc_ir::layout::SignLayout;
use rabitc_ir::ops::source::Input;
use rabitc_ir::{DType, Data, EvalError, Graph, Interpreter, Op, Tensor, Type};

/// SplitMix64 (Steele et al., 2014).
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn pick<X: Clone>(&mut self, from: &[X]) -> X {
        from[self.below(from.len())].clone()
    }

    /// A number in −2..2 that every float type holds exactly.
    pub fn value(&mut self) -> f32 {
        (self.below(256) as f32 - 128.0) / 64.0
    }

    /// A number in −1..1.
    pub fn float(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.float()).collect()
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }

    /// An f32 tensor of numbers in −1..1.
    pub fn tensor(&mut self, shape: &[usize]) -> Tensor {
        Tensor::f32(shape, self.floats(shape.iter().product()))
    }

    /// Random signs, the padding of every row zero.
    pub fn signs(&mut self, [paths, d_out, d_in]: [usize; 3]) -> Tensor {
        let stride = d_in.div_ceil(8);
        let mut bits = self.bytes(paths * d_out * stride);
        if !d_in.is_multiple_of(8) {
            for row in bits.chunks_mut(stride) {
                row[stride - 1] &= (1 << (d_in % 8)) - 1;
            }
        }
        Tensor::bytes(DType::Bit, &[paths, d_out, d_in], bits)
    }

    /// A tensor of any type, whose dimensions must be fixed.
    pub fn any_tensor(&mut self, ty: &Type) -> Tensor {
        let shape = ty.fixed_shape().expect("a fixed shape");
        let n: usize = shape.iter().product();
        match ty.dtype {
            DType::I32 => Tensor::i32(&shape, (0..n).map(|_| self.next() as i32).collect()),
            DType::I8 | DType::U8 => Tensor::bytes(ty.dtype, &shape, self.bytes(n)),
            DType::Bit => {
                let bytes = ty.storage_bytes().expect("a fixed shape");
                Tensor::bytes(DType::Bit, &shape, self.bytes(bytes))
            }
            dtype => Tensor {
                dtype,
                data: Data::F32((0..n).map(|_| self.value()).collect()),
                shape,
            },
        }
    }
}

/// An f32 tensor of two dimensions, written row by row.
pub fn rows<const N: usize>(rows: &[[f32; N]]) -> Tensor {
    Tensor::f32(&[rows.len(), N], rows.concat())
}

/// An f32 vector.
pub fn vector(data: &[f32]) -> Tensor {
    Tensor::f32(&[data.len()], data.to_vec())
}

/// An i32 vector.
pub fn ints(data: &[i32]) -> Tensor {
    Tensor::i32(&[data.len()], data.to_vec())
}

/// Runs one op on operands given as inputs.
pub fn run_op(op: impl Into<Op>, operands: &[Tensor]) -> Result<Tensor, EvalError> {
    let mut graph = Graph::new("one op");
    let mut inputs = BTreeMap::new();
    let mut ids = Vec::new();
    for (i, operand) in operands.iter().enumerate() {
        let (name, ty) = (format!("operand{i}"), operand.ty());
        let input = Input {
            name: name.clone(),
            ty,
        };
        ids.push(graph.add(&name, input, &[]).expect("a source"));
        inputs.insert(name, operand.clone());
    }
    let id = graph.add("result", op, &ids).expect("operands that fit");
    graph.set_output("result", id);
    let weights = BTreeMap::new();
    let mut outputs = Interpreter::new(&graph, &weights).run(inputs)?;
    let result = outputs.remove("result").expect("the only output");
    assert_eq!(result.ty(), *graph.ty(id), "type rule and semantics differ");
    Ok(result)
}

/// Runs one op that must succeed.
pub fn compute(op: impl Into<Op>, operands: &[Tensor]) -> Tensor {
    run_op(op, operands).expect("the op is computed")
}

/// Asserts that two float tensors agree to `tolerance` of the largest expected magnitude.
#[track_caller]
pub fn assert_close(found: &Tensor, expected: &[f64], tolerance: f64) {
    let largest = expected.iter().fold(1e-30, |m: f64, x| m.max(x.abs()));
    assert_eq!(found.floats().len(), expected.len());
    for (i, (&f, &e)) in found.floats().iter().zip(expected).enumerate() {
        let error = (f64::from(f) - e).abs();
        assert!(error <= tolerance * largest, "[{i}]: {f}, not {e}");
    }
}

/// A layout from its parts.
pub fn layout(d_in: usize, paths: usize, segments: &[usize], row_tiles: usize) -> SignLayout {
    SignLayout {
        d_in,
        paths,
        segments: segments.to_vec(),
        row_tiles,
    }
}
