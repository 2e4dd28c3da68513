//! Element types, dimensions and tensor types.

use std::fmt;
use std::str::FromStr;

/// The element type of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary16.
    F16,
    /// bfloat16.
    BF16,
    /// 32-bit signed integer.
    I32,
    /// 8-bit signed integer.
    I8,
    /// 8-bit unsigned integer.
    U8,
    /// One sign: 1 is +1, 0 is −1.
    Bit,
}

impl DType {
    /// Every element type, for tables and tests.
    pub const ALL: [DType; 7] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::I32,
        DType::I8,
        DType::U8,
        DType::Bit,
    ];

    /// The name in the text form.
    pub fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::BF16 => "bf16",
            DType::I32 => "i32",
            DType::I8 => "i8",
            DType::U8 => "u8",
            DType::Bit => "bit",
        }
    }

    /// Bits one element takes.
    pub fn bits(self) -> usize {
        match self {
            DType::F32 | DType::I32 => 32,
            DType::F16 | DType::BF16 => 16,
            DType::I8 | DType::U8 => 8,
            DType::Bit => 1,
        }
    }

    /// Whether this is one of the floating-point types.
    pub fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F16 | DType::BF16)
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        DType::ALL
            .into_iter()
            .find(|d| d.name() == s)
            .ok_or_else(|| format!("unknown dtype `{s}`"))
    }
}

/// One dimension of a tensor type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dim {
    /// A size known at compile time.
    Fixed(usize),
    /// `T`: the tokens of this step.
    Tokens,
    /// `R`: the rows of this step whose logits are asked for.
    Rows,
}

impl Dim {
    /// The size, if it is known at compile time.
    pub fn fixed(self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(n),
            _ => None,
        }
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Tokens => f.write_str("T"),
            Dim::Rows => f.write_str("R"),
        }
    }
}

/// The type of a tensor: element type and shape, e.g. `f32[T,4096]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Type {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<Dim>,
}

impl Type {
    /// A type from its parts.
    pub fn new(dtype: DType, shape: impl Into<Vec<Dim>>) -> Self {
        Type {
            dtype,
            shape: shape.into(),
        }
    }

    /// A type all of whose dimensions are known.
    pub fn fixed(dtype: DType, shape: &[usize]) -> Self {
        Type::new(
            dtype,
            shape.iter().map(|&n| Dim::Fixed(n)).collect::<Vec<_>>(),
        )
    }

    /// The shape, if every dimension is known at compile time.
    pub fn fixed_shape(&self) -> Option<Vec<usize>> {
        self.shape.iter().map(|d| d.fixed()).collect()
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.shape.len()
    }

    /// Size of the last dimension, if it is known.
    pub fn last(&self) -> Option<usize> {
        self.shape.last().and_then(|d| d.fixed())
    }

    /// Bytes of storage for a fixed shape. Rows of `bit` tensors are padded to whole bytes.
    /// `None` for symbolic shapes and for sizes that overflow.
    pub fn storage_bytes(&self) -> Option<usize> {
        storage_bytes(self.dtype, &self.fixed_shape()?)
    }
}

/// Bytes of storage of `shape`; rows of `bit` tensors are padded to whole bytes.
pub fn storage_bytes(dtype: DType, shape: &[usize]) -> Option<usize> {
    let (row, outer) = match (dtype, shape.split_last()) {
        (DType::Bit, Some((last, outer))) => (last.div_ceil(8), outer),
        (_, Some((last, outer))) => (last.checked_mul(dtype.bits() / 8)?, outer),
        (_, None) => (dtype.bits().div_ceil(8), shape),
    };
    outer.iter().try_fold(row, |n, d| n.checked_mul(*d))
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[", self.dtype)?;
        for (i, d) in self.shape.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{d}")?;
        }
        f.write_str("]")
    }
}

impl FromStr for Type {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is not a type such as `f32[T,64]`");
        let (dtype, rest) = s.split_once('[').ok_or_else(bad)?;
        let dims = rest.strip_suffix(']').ok_or_else(bad)?;
        let shape = dims
            .split(',')
            .map(str::trim)
            .filter(|d| !dims.is_empty() || !d.is_empty())
            .map(|d| match d {
                "T" => Ok(Dim::Tokens),
                "R" => Ok(Dim::Rows),
                n => n.parse().map(Dim::Fixed).map_err(|_| bad()),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Type::new(dtype.trim().parse()?, shape))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_print_and_parse() {
        for text in ["f32[T,4096]", "bit[2,3,5]", "i32[]", "bf16[R,1]", "u8[7]"] {
            assert_eq!(text.parse::<Type>().unwrap().to_string(), text);
        }
        for bad in ["f33[1]", "f32", "f32[1", "f32[x]", "f32[1,,2]", "f32[-1]"] {
            assert!(bad.parse::<Type>().is_err(), "{bad}");
        }
    }

    #[test]
    fn storage_pads_bit_rows_and_refuses_overflow() {
        assert_eq!(
            Type::fixed(DType::Bit, &[2, 3, 9]).storage_bytes(),
            Some(12)
        );
        assert_eq!(Type::fixed(DType::BF16, &[3, 5]).storage_bytes(), Some(30));
        assert_eq!(
            Type::fixed(DType::F32, &[usize::MAX, 2]).storage_bytes(),
            None
        );
    }
}
