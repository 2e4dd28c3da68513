//! Tensors and the in-memory weight store: bytes, shapes, types.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rabitc_ir::types::storage_bytes;
use rabitc_ir::{DType, Tensor, WeightStore};

use crate::support::{Rng, rows, vector};

fn any_dtype() -> impl Strategy<Value = DType> {
    (0..DType::ALL.len()).prop_map(|i| DType::ALL[i])
}

proptest! {
    /// Any bytes that are no NaN come back as they were; f16 and bf16 are widened exactly.
    #[test]
    fn bytes_survive_reading_and_writing(
        dtype in any_dtype(),
        shape in proptest::collection::vec(0..7usize, 0..4),
        seed in any::<u64>(),
    ) {
        let bytes = Rng(seed).bytes(storage_bytes(dtype, &shape).unwrap());
        let tensor = Tensor::from_le_bytes(dtype, &shape, &bytes).unwrap();
        prop_assert_eq!(tensor.ty().to_string(), rabitc_ir::Type::fixed(dtype, &shape).to_string());
        prop_assert_eq!(tensor.rows() * tensor.width(), shape.iter().product::<usize>());
        let nan = |t: &Tensor| t.dtype.is_float() && t.floats().iter().any(|x| x.is_nan());
        if !nan(&tensor) {
            prop_assert_eq!(tensor.to_le_bytes(), bytes);
        }
    }

    #[test]
    fn bytes_of_another_length_are_refused(
        dtype in any_dtype(),
        shape in proptest::collection::vec(1..7usize, 0..4),
        more in 1..9usize,
    ) {
        let length = storage_bytes(dtype, &shape).unwrap();
        for wrong in [length + more, length.saturating_sub(more), 0] {
            let bytes = vec![0; wrong];
            prop_assert!(wrong == length || Tensor::from_le_bytes(dtype, &shape, &bytes).is_none());
        }
    }

    #[test]
    fn signs_are_least_significant_bit_first(
        [outer, width] in [1..5usize, 1..20],
        seed in any::<u64>(),
    ) {
        let signs = Rng(seed).signs([1, outer, width]);
        let stride = width.div_ceil(8);
        for row in 0..outer {
            for column in 0..width {
                let byte = u32::from(signs.raw()[row * stride + column / 8]);
                let one = byte & 2u32.pow(column as u32 % 8) != 0;
                prop_assert_eq!(signs.sign(row, column), if one { 1.0 } else { -1.0 });
            }
        }
    }
}

#[test]
fn floats_are_stored_little_endian_and_rounded_to_their_type() {
    let mut tensor = vector(&[1.0, -2.5, 1.0 + 1.0 / 512.0]);
    let ones = [0x00, 0x00, 0x80, 0x3f];
    assert_eq!(tensor.to_le_bytes()[..4], ones);
    tensor.dtype = DType::BF16;
    assert_eq!(tensor.to_le_bytes(), [0x80, 0x3f, 0x20, 0xc0, 0x80, 0x3f]);
    tensor.dtype = DType::F16;
    assert_eq!(tensor.to_le_bytes(), [0x00, 0x3c, 0x00, 0xc1, 0x02, 0x3c]);
    let ints = Tensor::i32(&[1], vec![-2]);
    assert_eq!(ints.to_le_bytes(), [0xfe, 0xff, 0xff, 0xff]);
}

#[test]
fn sizes_that_overflow_are_refused() {
    for shape in [&[usize::MAX, 2][..], &[1 << 40, 1 << 40], &[usize::MAX, 1]] {
        assert!(Tensor::from_le_bytes(DType::F32, shape, &[]).is_none());
    }
    assert!(Tensor::from_le_bytes(DType::Bit, &[1 << 62, 1 << 62], &[]).is_none());
}

#[test]
fn scalars_have_one_row_of_one() {
    let scalar = Tensor::f32(&[], vec![3.0]);
    assert_eq!((scalar.rows(), scalar.width()), (1, 1));
    assert_eq!(scalar.ty().to_string(), "f32[]");
    let stack = Tensor::f32(&[2, 3, 4], vec![0.0; 24]);
    assert_eq!((stack.rows(), stack.width()), (6, 4));
}

#[test]
fn a_map_of_tensors_is_a_store() {
    let store = BTreeMap::from([("w".to_string(), rows(&[[1.0, 2.0]]))]);
    assert_eq!(store.info("w"), Some((DType::F32, vec![1, 2])));
    assert_eq!(store.load("w").unwrap(), rows(&[[1.0, 2.0]]));
    assert_eq!(store.raw("w").unwrap().len(), 8);
    assert_eq!(store.info("v"), None);
    let error = store.load("v").unwrap_err();
    assert_eq!(error.to_string(), "there is no weight named `v`");
    assert!(store.raw("v").is_err());
}
