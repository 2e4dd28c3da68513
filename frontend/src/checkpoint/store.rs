//! A checkpoint as the source of a graph's weights: conversion to f32, and the check that every
//! float is finite and every padding bit zero.

use std::borrow::Cow;

use rabitc_ir::{DType, Tensor, WeightError, WeightStore};
use safetensors::Dtype;

use super::Checkpoint;

/// Suffix of packed signs, `u8 [k, d_out, ceil(d_in/8)]`.
pub(crate) const BITS: &str = ".rb_bits";
/// Suffix of the input scales, `[k, d_in]`.
pub(crate) const INPUT_SCALES: &str = ".rb_h";
/// Suffix of the output scales, `[k, d_out]`.
pub(crate) const OUTPUT_SCALES: &str = ".rb_g";

/// The graph's element type for a stored one; `None` for those that no graph can hold.
pub(crate) fn dtype(stored: Dtype) -> Option<DType> {
    Some(match stored {
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I32 => DType::I32,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        _ => return None,
    })
}

impl Checkpoint {
    /// The shape of packed signs in bits, if `name` is such a tensor and its input scales say how
    /// many of the last byte's bits count.
    fn bit_shape(&self, name: &str) -> Option<Vec<usize>> {
        let base = name.strip_suffix(BITS)?;
        let bits = self.info(name)?;
        let scales = self.info(&format!("{base}{INPUT_SCALES}"))?;
        match (bits.dtype, bits.shape.as_slice(), scales.shape.as_slice()) {
            (Dtype::U8, &[k, d_out, bytes], &[k_h, d_in])
                if k == k_h && d_in.div_ceil(8) == bytes =>
            {
                Some(vec![k, d_out, d_in])
            }
            _ => None,
        }
    }

    fn invalid(&self, name: &str, reason: &str) -> WeightError {
        let file = self.file_of(name).map(|f| f.display().to_string());
        WeightError::Invalid {
            name: name.to_string(),
            reason: format!("{reason} ({})", file.unwrap_or_default()),
        }
    }

    /// Type, shape and bytes of a tensor whose values are fit for use.
    fn checked(&self, name: &str) -> Result<(DType, Vec<usize>, &[u8]), WeightError> {
        let missing = || WeightError::Missing(name.to_string());
        let stored = self.info(name).ok_or_else(missing)?;
        let bytes = self.bytes(name).ok_or_else(missing)?;
        let (dtype, shape) = WeightStore::info(self, name)
            .ok_or_else(|| self.invalid(name, &format!("{:?} is not supported", stored.dtype)))?;
        if let Some(at) = first_non_finite(dtype, bytes) {
            let value = Tensor::from_le_bytes(dtype, &[1], element(dtype, bytes, at));
            let value = value.map_or(f32::NAN, |t| t.floats()[0]);
            let index = unravel(at, &shape);
            return Err(self.invalid(name, &format!("element {index:?} is {value}")));
        }
        if dtype == DType::Bit
            && let Some(row) = first_bad_padding(bytes, shape[2])
        {
            let row = unravel(row, &shape[..2]);
            return Err(self.invalid(name, &format!("row {row:?} has padding bits set")));
        }
        Ok((dtype, shape, bytes))
    }
}

impl WeightStore for Checkpoint {
    fn info(&self, name: &str) -> Option<(DType, Vec<usize>)> {
        if let Some(shape) = self.bit_shape(name) {
            return Some((DType::Bit, shape));
        }
        let info = Checkpoint::info(self, name)?;
        Some((dtype(info.dtype)?, info.shape))
    }

    fn load(&self, name: &str) -> Result<Tensor, WeightError> {
        let (dtype, shape, bytes) = self.checked(name)?;
        Tensor::from_le_bytes(dtype, &shape, bytes)
            .ok_or_else(|| self.invalid(name, "its bytes do not fill its shape"))
    }

    fn raw(&self, name: &str) -> Result<Cow<'_, [u8]>, WeightError> {
        self.checked(name).map(|(_, _, bytes)| Cow::Borrowed(bytes))
    }

    fn release(&self, name: &str) {
        self.release_pages(name);
    }
}

fn element(dtype: DType, bytes: &[u8], at: usize) -> &[u8] {
    let size = dtype.bits() / 8;
    &bytes[at * size..][..size]
}

/// Where the first NaN or infinity stands: exponent bits all ones.
fn first_non_finite(dtype: DType, bytes: &[u8]) -> Option<usize> {
    let half = |mask: u16| {
        scan(bytes, move |b: [u8; 2]| {
            u16::from_le_bytes(b) & mask == mask
        })
    };
    match dtype {
        DType::F32 => scan(bytes, |b: [u8; 4]| {
            u32::from_le_bytes(b) & 0x7f80_0000 == 0x7f80_0000
        }),
        DType::F16 => half(0x7c00),
        DType::BF16 => half(0x7f80),
        _ => None,
    }
}

/// The first element for which `bad` holds. Whole blocks are tested without branches first, which
/// the compiler turns into vector code.
fn scan<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<usize> {
    const BLOCK: usize = 4096;
    let get = |c: &[u8]| bad(c.try_into().expect("chunks_exact gives N bytes"));
    let blocks = bytes.chunks(BLOCK * N).enumerate();
    for (number, block) in blocks {
        let any = block.chunks_exact(N).fold(false, |any, c| any | get(c));
        if any {
            let within = block.chunks_exact(N).position(get)?;
            return Some(number * BLOCK + within);
        }
    }
    None
}

/// The first row of packed signs whose last byte has a bit set beyond `d_in`.
fn first_bad_padding(bytes: &[u8], d_in: usize) -> Option<usize> {
    if d_in.is_multiple_of(8) {
        return None;
    }
    let mask = !0u8 << (d_in % 8);
    bytes
        .chunks_exact(d_in.div_ceil(8))
        .position(|row| row[row.len() - 1] & mask != 0)
}

/// Indices of the element at `flat` of a row-major tensor.
fn unravel(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut index: Vec<_> = shape
        .iter()
        .rev()
        .map(|&d| {
            let i = flat % d.max(1);
            flat /= d.max(1);
            i
        })
        .collect();
    index.reverse();
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_finite_values_are_found_wherever_they_stand() {
        for at in [0, 1, 4095, 4096, 9999] {
            let mut f32s = vec![1.5f32; 10_000];
            f32s[at] = f32::NEG_INFINITY;
            let bytes: Vec<u8> = f32s.iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(first_non_finite(DType::F32, &bytes), Some(at));
            let narrow: Vec<u8> = f32s
                .iter()
                .flat_map(|&x| half::bf16::from_f32(x).to_le_bytes())
                .collect();
            assert_eq!(first_non_finite(DType::BF16, &narrow), Some(at));
            f32s[at] = f32::NAN;
            let narrow: Vec<u8> = f32s
                .iter()
                .flat_map(|&x| half::f16::from_f32(x).to_le_bytes())
                .collect();
            assert_eq!(first_non_finite(DType::F16, &narrow), Some(at));
        }
        let largest = f32::MAX.to_le_bytes();
        assert_eq!(first_non_finite(DType::F32, &largest), None);
        assert_eq!(first_non_finite(DType::U8, &[0xff; 8]), None);
    }

    #[test]
    fn padding_bits_must_be_zero() {
        assert_eq!(first_bad_padding(&[0xff, 0x01, 0xff, 0x03], 9), Some(1));
        assert_eq!(first_bad_padding(&[0xff, 0x01, 0xff, 0x01], 9), None);
        assert_eq!(first_bad_padding(&[0xff, 0xff], 8), None);
    }

    #[test]
    fn unravel_gives_indices() {
        assert_eq!(unravel(17, &[2, 3, 4]), [1, 1, 1]);
        assert_eq!(unravel(0, &[]), Vec::<usize>::new());
    }
}
