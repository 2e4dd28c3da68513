//! Values of the interpreter, and lane-by-lane arithmetic on them.

use super::super::types::{BinOp, CmpOp, Elem, Ty, UnOp};

/// A value: the bits of each lane, zero-extended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    pub ty: Ty,
    pub lanes: Vec<u64>,
}

impl Value {
    pub fn splat(ty: Ty, bits: u64) -> Value {
        let lanes = vec![bits & mask(ty.elem); ty.lanes as usize];
        Value { ty, lanes }
    }

    pub fn int(x: i64) -> Value {
        Value::splat(Ty::I64, x as u64)
    }

    pub fn float(x: f32) -> Value {
        Value::splat(Ty::F32, x.to_bits().into())
    }

    /// A value of type `ty` with lane `i` = `lane(i)`, cut to the lane's width.
    pub fn build(ty: Ty, lane: impl FnMut(usize) -> u64) -> Value {
        let lanes = (0..ty.lanes as usize).map(lane);
        let lanes = lanes.map(|bits| bits & mask(ty.elem)).collect();
        Value { ty, lanes }
    }

    /// A lane as a signed integer.
    pub fn signed(&self, lane: usize) -> i64 {
        let unused = 64 - bits(self.ty.elem);
        (self.lanes[lane] << unused) as i64 >> unused
    }

    /// A lane as a float.
    pub fn f32(&self, lane: usize) -> f32 {
        f32::from_bits(self.lanes[lane] as u32)
    }

    /// The only lane of a scalar.
    pub fn scalar(&self) -> i64 {
        self.signed(0)
    }

    /// The floats of a vector.
    pub fn floats(&self) -> Vec<f32> {
        (0..self.lanes.len()).map(|i| self.f32(i)).collect()
    }

    /// The value as it lies in memory.
    pub fn bytes(&self) -> Vec<u8> {
        let size = self.ty.elem.bytes();
        let lanes = self.lanes.iter();
        lanes
            .flat_map(|lane| lane.to_le_bytes().into_iter().take(size))
            .collect()
    }

    /// The value that lies in memory as `bytes`.
    pub fn from_bytes(ty: Ty, bytes: &[u8]) -> Value {
        let lanes = bytes.chunks(ty.elem.bytes()).map(|chunk| {
            let mut lane = [0; 8];
            lane[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(lane)
        });
        let lanes = lanes.collect();
        Value { ty, lanes }
    }
}

/// Bits of a lane.
pub(super) fn bits(elem: Elem) -> u32 {
    8 * elem.bytes() as u32
}

fn mask(elem: Elem) -> u64 {
    u64::MAX >> (64 - bits(elem))
}

/// `a op b`. Division by zero gives 0: what a kernel may not do has any result.
pub(super) fn bin(op: BinOp, a: &Value, b: &Value) -> Value {
    Value::build(a.ty, |i| match a.ty.elem {
        Elem::F32 => {
            let (x, y) = (a.f32(i), b.f32(i));
            let result = match op {
                BinOp::Add => x + y,
                BinOp::Sub => x - y,
                BinOp::Mul => x * y,
                BinOp::Div => x / y,
                BinOp::Min if x < y => x,
                BinOp::Max if x > y => x,
                _ => y,
            };
            result.to_bits().into()
        }
        _ => int_bin(op, a.signed(i), b.signed(i)) as u64,
    })
}

fn int_bin(op: BinOp, x: i64, y: i64) -> i64 {
    match op {
        BinOp::Add => x.wrapping_add(y),
        BinOp::Sub => x.wrapping_sub(y),
        BinOp::Mul => x.wrapping_mul(y),
        BinOp::Div => x.checked_div(y).unwrap_or_default(),
        BinOp::Min => x.min(y),
        BinOp::Max => x.max(y),
        BinOp::And => x & y,
        BinOp::Or => x | y,
        BinOp::Xor => x ^ y,
    }
}

pub(super) fn un(op: UnOp, a: &Value) -> Value {
    Value::build(a.ty, |i| {
        let x = a.f32(i);
        let result = match op {
            UnOp::Neg => -x,
            UnOp::Abs => x.abs(),
            UnOp::Sqrt => x.sqrt(),
            UnOp::Nearest => x.round_ties_even(),
        };
        result.to_bits().into()
    })
}

/// a·b + c with one rounding (`fused`) or two.
pub(super) fn fma(a: &Value, b: &Value, c: &Value, fused: bool) -> Value {
    Value::build(a.ty, |i| {
        let (x, y, z) = (a.f32(i), b.f32(i), c.f32(i));
        let result = if fused { x.mul_add(y, z) } else { x * y + z };
        result.to_bits().into()
    })
}

/// Comparison; `ty` is the mask's type.
pub(super) fn cmp(op: CmpOp, a: &Value, b: &Value, ty: Ty) -> Value {
    Value::build(ty, |i| {
        let holds = match a.ty.elem {
            Elem::F32 => compare(op, a.f32(i), b.f32(i)),
            _ => compare(op, a.signed(i), b.signed(i)),
        };
        if holds { u64::MAX } else { 0 }
    })
}

fn compare<T: PartialOrd>(op: CmpOp, x: T, y: T) -> bool {
    match op {
        CmpOp::Eq => x == y,
        CmpOp::Lt => x < y,
        CmpOp::Le => x <= y,
    }
}

pub(super) fn select(mask: &Value, a: &Value, b: &Value) -> Value {
    Value::build(a.ty, |i| {
        a.lanes[i] & mask.lanes[i] | b.lanes[i] & !mask.lanes[i]
    })
}

/// Narrows two vectors to lanes of `ty` with signed saturation.
pub(super) fn narrow(a: &Value, b: &Value, ty: Ty) -> Value {
    let high = i64::MAX >> (64 - bits(ty.elem));
    let half = a.lanes.len();
    Value::build(ty, |i| {
        let (from, lane) = if i < half { (a, i) } else { (b, i - half) };
        from.signed(lane).clamp(-high - 1, high) as u64
    })
}

/// Interleaves halves of each 16-byte group.
pub(super) fn interleave(a: &Value, b: &Value, high: bool) -> Value {
    let group = 16 / a.ty.elem.bytes();
    Value::build(a.ty, |i| {
        let start = i / group * group + if high { group / 2 } else { 0 };
        let from = if i % 2 == 0 { a } else { b };
        from.lanes[start + i % group / 2]
    })
}

/// Folds the upper half of the lanes onto the lower until one is left.
pub(super) fn reduce(a: &Value, f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = a.floats();
    while lanes.len() > 1 {
        let upper = lanes.split_off(lanes.len() / 2);
        for (low, high) in lanes.iter_mut().zip(upper) {
            *low = f(*low, high);
        }
    }
    lanes[0]
}
