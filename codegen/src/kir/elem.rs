//! What a value of the kernel IR is made of: elements and lanes.

/// Element type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Elem {
    /// 8-bit integer.
    I8,
    /// 16-bit integer.
    I16,
    /// 32-bit integer.
    I32,
    /// 64-bit integer; also an address or a count.
    I64,
    /// IEEE 754 binary32.
    F32,
}

impl Elem {
    /// Bytes of one element.
    pub fn bytes(self) -> usize {
        match self {
            Elem::I8 => 1,
            Elem::I16 => 2,
            Elem::I32 | Elem::F32 => 4,
            Elem::I64 => 8,
        }
    }
}

/// Type of a value: a scalar (`lanes == 1`) or a vector. A vector is 16, 32 or 64 bytes, and all
/// vectors of a kernel have the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    /// Element type.
    pub elem: Elem,
    /// Number of elements.
    pub lanes: u8,
}

impl Ty {
    /// A 64-bit scalar: addresses, counts, indices.
    pub const I64: Ty = Ty::scalar(Elem::I64);
    /// A 32-bit integer scalar.
    pub const I32: Ty = Ty::scalar(Elem::I32);
    /// An f32 scalar.
    pub const F32: Ty = Ty::scalar(Elem::F32);

    /// A scalar type.
    pub const fn scalar(elem: Elem) -> Ty {
        Ty { elem, lanes: 1 }
    }

    /// The vector of `elem` that fills `bytes`.
    pub fn vector(elem: Elem, bytes: usize) -> Ty {
        Ty {
            elem,
            lanes: (bytes / elem.bytes()) as u8,
        }
    }

    /// Bytes of the whole value.
    pub fn bytes(self) -> usize {
        self.elem.bytes() * self.lanes as usize
    }

    /// The same bytes as elements of another type.
    pub fn with_elem(self, elem: Elem) -> Ty {
        Ty {
            elem,
            lanes: (self.bytes() / elem.bytes()) as u8,
        }
    }
}
