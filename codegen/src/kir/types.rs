//! The data types of the kernel IR.
//!
//! Values and lanes are little endian: lane 0 is the lowest, and the first in memory. What the
//! instructions mean is said here and, executably, in [`super::interp`]; which forms are legal,
//! in [`super::check`].

pub use super::elem::{Elem, Ty};

/// A value: assigned once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Val(pub u32);

/// A mutable variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Var(pub u32);

/// Two-operand instructions, lane by lane; operands and result have one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BinOp {
    /// Sum; integers wrap.
    Add,
    /// Difference; integers wrap.
    Sub,
    /// Product; integers wrap (not on 8-bit vectors, nor 64-bit vectors).
    Mul,
    /// Quotient; floats, and signed 64-bit scalars, truncated towards 0 (the divisor is not 0,
    /// and the quotient is in range).
    Div,
    /// The smaller; floats: if an operand is NaN, or both are zeros, either operand is a result
    /// that a backend may give. Signed integers (not on 64-bit vectors).
    Min,
    /// The larger; as for `Min`.
    Max,
    /// Bitwise and; integers.
    And,
    /// Bitwise or; integers.
    Or,
    /// Bitwise exclusive or; integers.
    Xor,
}

/// One-operand instructions, lane by lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnOp {
    /// −x; floats.
    Neg,
    /// |x|; floats.
    Abs,
    /// √x; floats.
    Sqrt,
    /// Round to the nearest integer, ties to even; floats.
    Nearest,
}

/// Comparisons, of scalars as of vectors; the result has an integer of the operands' width a lane:
/// all ones (−1) where true, 0 where false.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CmpOp {
    /// Equal.
    Eq,
    /// Less than; integers signed, floats ordered.
    Lt,
    /// Less than or equal; integers signed, floats ordered.
    Le,
}

/// How elements lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemType {
    /// As in the register.
    Same,
    /// binary16 in memory, f32 in the register (loads only, values finite): 2 bytes a lane.
    F16,
    /// bfloat16 in memory, f32 in the register (loads only): 2 bytes a lane.
    BF16,
    /// int8 in memory, f32 in the register (loads only): 1 byte a lane.
    I8,
}

/// What computes a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Inst {
    /// Base address of a parameter: i64.
    Param(usize),
    /// A scalar argument: i64.
    Scalar(usize),
    /// First work item: i64.
    Begin,
    /// One past the last work item: i64.
    End,
    /// Number of the worker: i64.
    Worker,
    /// Address of `bytes` bytes of stack, 64-byte aligned: i64. The area belongs to the
    /// instruction, so that every execution in one call gives the same one; its contents are
    /// unspecified until stored, and it is gone when the call ends.
    Stack {
        /// Size.
        bytes: usize,
    },
    /// An integer in every lane; it fits the lane as a signed or as an unsigned number.
    Int(i64),
    /// A float in every lane. NaN keeps its bits.
    Float(f32),
    /// Constant bytes, whatever the element type of the result: as many as the vector has, or
    /// sixteen, which stand in every 16-byte group of it.
    Bytes(Vec<u8>),
    /// A scalar in every lane.
    Splat(Val),
    /// The current value of a variable.
    Get(Var),
    /// Two-operand arithmetic.
    Bin(BinOp, Val, Val),
    /// One-operand arithmetic.
    Un(UnOp, Val),
    /// a·b + c; floats. Fused (one rounding) where the level has it, else two roundings: which
    /// of them is [`crate::level::Level::has_fma`], and the same in every backend.
    Fma(Val, Val, Val),
    /// Left shift of each lane by a constant; integers of 16 bits or more.
    Shl(Val, u8),
    /// Logical right shift of each lane by a constant; integers of 16 bits or more.
    Shr(Val, u8),
    /// Arithmetic right shift of each lane by a constant; integers of 16 bits or more.
    Sar(Val, u8),
    /// Comparison.
    Cmp(CmpOp, Val, Val),
    /// Bits of the second where the mask's bits are one, of the third elsewhere. The mask has an
    /// integer of the values' width a lane.
    Select(Val, Val, Val),
    /// f32 to i32, rounded to nearest ties to even (values are in range; the result is unspecified
    /// if they are not).
    ToInt(Val),
    /// i32 to f32; also i64 scalar to f32. Rounded to nearest ties to even.
    ToFloat(Val),
    /// The same bits as another type of the same size; scalar to scalar, vector to vector.
    Bitcast(Val),
    /// Zero-extends the lower (`high` false) or upper half of the lanes of the whole vector to
    /// twice the width: i8 to i16, i16 to i32.
    WidenU(Val, bool),
    /// Sign-extends the lower or upper half of the lanes of the whole vector to twice the width:
    /// i8 to i16, i16 to i32.
    WidenS(Val, bool),
    /// Narrows two vectors to half the element width with signed saturation, i32 to i16 or i16
    /// to i8: the lanes of the first become the lower half of the result's, those of the second
    /// the upper half, in order, over the whole vector.
    Narrow(Val, Val),
    /// Sign-extends an integer scalar to i64.
    Extend(Val),
    /// The low 32 bits of an i64 scalar as i32.
    Trunc(Val),
    /// For each byte i of the index (values 0..16, else the result byte is unspecified): byte i of
    /// the result is the indexed byte of the table, within the same 16-byte group of the vector.
    Lookup16 {
        /// 16 bytes in each 16-byte group.
        table: Val,
        /// Indices 0..16.
        index: Val,
    },
    /// Byte i of the result is byte `index[i]` of the table, over the whole vector (indices are
    /// below its bytes, else the result byte is unspecified). Vectors of 16 bytes, and of 64 on
    /// levels with [`crate::level::Level::has_byte_permute`].
    Permute {
        /// What is picked from.
        table: Val,
        /// Which byte to pick.
        index: Val,
    },
    /// To each lane of the first, i32, the sum of the four bytes of the second that lie in the
    /// same place, without sign.
    AddBytes(Val, Val),
    /// Interleaves the lower (`high` false) or upper halves of two vectors, lane by lane, within
    /// each 16-byte group: a0 b0 a1 b1 ... for the lower half.
    Interleave(Val, Val, bool),
    /// One lane as a scalar.
    Extract(Val, u8),
    /// Sum of all lanes; f32 vectors. Lane i is added to lane i + n/2 for each i < n/2, then the
    /// same on the n/2 sums, until one is left.
    Sum(Val),
    /// Largest lane; f32 vectors. As for `Max` if a lane is NaN.
    MaxLane(Val),
    /// Value in memory at address + constant offset in bytes; no alignment is required.
    Load {
        /// Address.
        ptr: Val,
        /// Bytes added to it.
        offset: i32,
        /// Form in memory.
        mem: MemType,
    },
}

/// A level of cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cache {
    /// The first: for what is needed at once.
    L1,
    /// The second: for what is needed later. It has room for many more requests at a time.
    L2,
}

/// A sequence of statements.
pub type Block = Vec<Stmt>;

/// One statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Stmt {
    /// Computes a value.
    Let(Val, Inst),
    /// Sets a variable; the first `Set` dominates every `Get`.
    Set(Var, Val),
    /// Stores a value at address + constant offset in bytes; no alignment is required.
    Store {
        /// Address.
        ptr: Val,
        /// Bytes added to it.
        offset: i32,
        /// What is stored.
        value: Val,
    },
    /// Asks for the cache line near address + offset; never faults, wherever that points.
    Prefetch {
        /// How near to the core it is brought.
        cache: Cache,
        /// Address.
        ptr: Val,
        /// Bytes added to it.
        offset: i32,
    },
    /// `for iv in (start..end).step_by(step)`; `end + step` does not overflow.
    For {
        /// The counter, i64, assigned once a turn.
        iv: Val,
        /// First value.
        start: Val,
        /// One past the last.
        end: Val,
        /// Positive.
        step: i64,
        /// What is repeated.
        body: Block,
    },
    /// Runs one of two blocks. The condition is an integer scalar; 0 is false.
    If {
        /// The condition.
        cond: Val,
        /// Where it is not 0.
        then: Block,
        /// Where it is 0.
        otherwise: Block,
    },
}

/// A pointer parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Name, for people: letters, digits and `_`.
    pub name: String,
    /// Whether the kernel writes through it. It reads through either kind.
    pub written: bool,
}

/// A kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Kernel {
    /// Name: letters, digits and `_`.
    pub name: String,
    /// Pointer parameters in order.
    pub params: Vec<Param>,
    /// Names of the scalar arguments in order.
    pub scalars: Vec<String>,
    /// Type of every value, by number.
    pub values: Vec<Ty>,
    /// Type of every variable, by number.
    pub vars: Vec<Ty>,
    /// What it does.
    pub body: Block,
}

impl Kernel {
    /// Type of a value.
    pub fn ty(&self, v: Val) -> Ty {
        self.values[v.0 as usize]
    }

    /// Bytes of a vector in this kernel; `None` if it has only scalars.
    pub fn vector_bytes(&self) -> Option<usize> {
        let types = self.values.iter().chain(&self.vars);
        types.filter(|ty| ty.lanes > 1).map(|ty| ty.bytes()).next()
    }
}
