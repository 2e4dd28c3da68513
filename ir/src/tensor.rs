//! Tensors as the reference interpreter and the compile-time evaluator hold them.

use crate::real::Real;
use crate::types::{DType, Type, storage_bytes};

/// The elements of a [`Tensor`].
#[derive(Clone, Debug, PartialEq)]
pub enum Data<F = f32> {
    /// Elements of any float type, widened (exactly) to f32, or to f64 where `F` is that.
    F32(Vec<F>),
    /// 32-bit integers.
    I32(Vec<i32>),
    /// Bytes: u8, i8 (two's complement), or bits packed 8 a byte, least significant first, each
    /// row of the last dimension padded to whole bytes.
    Bytes(Vec<u8>),
}

/// A tensor: element type, shape, elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<F = f32> {
    /// The element type; floats are held widened to f32 whatever it says.
    pub dtype: DType,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// The elements.
    pub data: Data<F>,
}

impl Tensor {
    /// An f32 tensor. Panics if `data` does not fill `shape`: both come from the caller.
    pub fn f32(shape: &[usize], data: Vec<f32>) -> Self {
        Tensor::real(shape, data)
    }

    /// An i32 tensor. Panics if `data` does not fill `shape`.
    pub fn i32(shape: &[usize], data: Vec<i32>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Tensor {
            dtype: DType::I32,
            shape: shape.to_vec(),
            data: Data::I32(data),
        }
    }

    /// A byte-valued or bit tensor. Panics if `data` does not fill `shape`.
    pub fn bytes(dtype: DType, shape: &[usize], data: Vec<u8>) -> Self {
        Tensor::of_bytes(dtype, shape, data)
    }

    /// The same tensor with its floats in another type, exactly.
    pub fn widen<F: Real>(self) -> Tensor<F> {
        let data = match self.data {
            Data::F32(v) => Data::F32(F::from_f32s(v)),
            Data::I32(v) => Data::I32(v),
            Data::Bytes(v) => Data::Bytes(v),
        };
        Tensor {
            dtype: self.dtype,
            shape: self.shape,
            data,
        }
    }

    /// The elements as they are stored in a file, little endian, floats rounded to `self.dtype`.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match &self.data {
            Data::Bytes(b) => b.clone(),
            Data::I32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Data::F32(v) => match self.dtype {
                DType::F16 => v
                    .iter()
                    .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
                    .collect(),
                DType::BF16 => v
                    .iter()
                    .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
                    .collect(),
                _ => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            },
        }
    }

    /// The reverse of [`Tensor::to_le_bytes`]. `None` if `bytes` is not exactly `shape` long.
    pub fn from_le_bytes(dtype: DType, shape: &[usize], bytes: &[u8]) -> Option<Self> {
        if storage_bytes(dtype, shape)? != bytes.len() {
            return None;
        }
        let data = match dtype {
            DType::F32 => Data::F32(chunks(bytes, f32::from_le_bytes)),
            DType::F16 => Data::F32(chunks(bytes, |b| half::f16::from_le_bytes(b).to_f32())),
            DType::BF16 => Data::F32(chunks(bytes, |b| half::bf16::from_le_bytes(b).to_f32())),
            DType::I32 => Data::I32(chunks(bytes, i32::from_le_bytes)),
            DType::I8 | DType::U8 | DType::Bit => Data::Bytes(bytes.to_vec()),
        };
        Some(Tensor {
            dtype,
            shape: shape.to_vec(),
            data,
        })
    }
}

impl<F: Real> Tensor<F> {
    /// A tensor of type f32 whose elements are held as `F`. Panics if `data` does not fill
    /// `shape`.
    pub fn real(shape: &[usize], data: Vec<F>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "{shape:?}");
        Tensor {
            dtype: DType::F32,
            shape: shape.to_vec(),
            data: Data::F32(data),
        }
    }

    /// A byte-valued or bit tensor. Panics if `data` does not fill `shape`.
    pub fn of_bytes(dtype: DType, shape: &[usize], data: Vec<u8>) -> Self {
        assert_eq!(storage_bytes(dtype, shape), Some(data.len()), "{shape:?}");
        Tensor {
            dtype,
            shape: shape.to_vec(),
            data: Data::Bytes(data),
        }
    }

    /// The float elements; panics if the tensor holds none, which the verifier rules out.
    pub fn floats(&self) -> &[F] {
        match &self.data {
            Data::F32(v) => v,
            _ => panic!("a {} tensor holds no floats", self.dtype),
        }
    }

    /// The integer elements; panics if the tensor holds none, which the verifier rules out.
    pub fn ints(&self) -> &[i32] {
        match &self.data {
            Data::I32(v) => v,
            _ => panic!("a {} tensor holds no 32-bit integers", self.dtype),
        }
    }

    /// The raw bytes; panics if the tensor holds none, which the verifier rules out.
    pub fn raw(&self) -> &[u8] {
        match &self.data {
            Data::Bytes(v) => v,
            _ => panic!("a {} tensor holds no bytes", self.dtype),
        }
    }

    /// Size of the last dimension (1 for a scalar).
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Rows of the last dimension.
    pub fn rows(&self) -> usize {
        self.shape[..self.shape.len().saturating_sub(1)]
            .iter()
            .product()
    }

    /// The sign (+1 or −1) at `(outer row, column)` of a bit tensor.
    pub fn sign(&self, row: usize, column: usize) -> f32 {
        let stride = self.width().div_ceil(8);
        let byte = self.raw()[row * stride + column / 8];
        if byte >> (column % 8) & 1 == 1 {
            1.0
        } else {
            -1.0
        }
    }

    /// The type of this tensor.
    pub fn ty(&self) -> Type {
        Type::fixed(self.dtype, &self.shape)
    }
}

fn chunks<const N: usize, X>(bytes: &[u8], f: impl Fn([u8; N]) -> X) -> Vec<X> {
    bytes
        .chunks_exact(N)
        .map(|c| f(c.try_into().expect("chunks_exact gives N bytes")))
        .collect()
}
