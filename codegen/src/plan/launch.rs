//! Launches before phases and places are known.

use rabitc_ir::Dim;
use rabitc_rbx::{Items, Scalar};

use crate::kernels::Spec;

/// Number of a buffer.
pub type BufferId = usize;

/// Memory that lives from one launch to another.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Bytes for every token or row.
    pub row_bytes: usize,
}

/// A pointer argument.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A buffer that is read, from a byte offset on.
    Read(BufferId, usize),
    /// A buffer that is written.
    Write(BufferId, usize),
    /// A tensor of the artifact.
    Weight(String),
    /// The keys of a layer.
    Keys(usize),
    /// The values of a layer.
    Values(usize),
    /// Token ids.
    Ids,
    /// Row indices.
    Rows,
}

/// One launch.
pub struct Launch {
    /// The graph node.
    pub node: String,
    /// What is run.
    pub work: LaunchWork,
}

/// What a launch runs.
pub enum LaunchWork {
    /// A kernel.
    Kernel {
        /// Its configuration.
        spec: Box<dyn Spec>,
        /// Its pointers.
        args: Vec<Operand>,
        /// Its scalars.
        scalars: Vec<Scalar>,
        /// Its work items.
        items: Items,
    },
    /// Something the runtime does itself.
    Host(HostLaunch),
}

/// Work of the runtime itself.
pub enum HostLaunch {
    /// See [`rabitc_rbx::Host::RopeTable`].
    RopeTable {
        /// Radians a position.
        inv_freq: Vec<f32>,
        /// Factor on cos and sin.
        attention_factor: f32,
        /// The table.
        out: Operand,
    },
}

impl Launch {
    /// The operands, whatever kind of launch it is.
    pub fn operands(&self) -> &[Operand] {
        match &self.work {
            LaunchWork::Kernel { args, .. } => args,
            LaunchWork::Host(HostLaunch::RopeTable { out, .. }) => std::slice::from_ref(out),
        }
    }
}

/// A value's place: columns of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First column, in f32 elements.
    pub column: usize,
    /// f32 elements a row.
    pub stride: usize,
}

impl View {
    /// The pointer to row 0, as a launch takes it.
    pub fn read<O: From<View>>(&self) -> O {
        O::from(*self)
    }

    /// Whether every row starts at a multiple of `n` elements and has a multiple of `n` of them.
    pub fn aligned(&self, n: usize) -> bool {
        self.column.is_multiple_of(n) && self.stride.is_multiple_of(n)
    }
}

impl From<View> for Operand {
    fn from(view: View) -> Operand {
        Operand::Read(view.buffer, view.column * 4)
    }
}

/// `n` items for every token or row, as `rows` says.
pub fn per_row(rows: Dim, n: usize) -> Items {
    let n = n as u64;
    let mut items = Items::default();
    match rows {
        Dim::Tokens => items.per_token = n,
        Dim::Rows => items.per_row = n,
        Dim::Fixed(rows) => items.constant = n * rows as u64,
    }
    items
}

/// The run-time count that goes with a row dimension.
pub fn row_scalar(rows: Dim) -> Scalar {
    match rows {
        Dim::Tokens => Scalar::Tokens,
        Dim::Rows => Scalar::Rows,
        Dim::Fixed(n) => Scalar::Const(n as i64),
    }
}
