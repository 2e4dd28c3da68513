//! What a plan becomes for the CPU: launches over memory that is found when they run.

use rabitc_codegen::kernels::Spec;

use super::host::Host;
use super::product::Product;

/// Where memory begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// The weight of that number.
    Weight(usize),
    /// The gradient of what is trained by that number.
    Gradient(usize),
    /// The first or second moment, 0 or 1, of what is trained by that number.
    Moment(usize, usize),
    /// The intermediate values.
    Arena,
    /// What a step needs for itself.
    Scratch,
    /// The input of that number.
    Input(usize),
    /// Known numbers.
    Constants,
}

/// A place in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Where it begins.
    pub base: Base,
    /// Elements of four bytes beyond.
    pub offset: usize,
}

impl Pointer {
    /// `elements` further on.
    pub fn plus(self, elements: usize) -> Pointer {
        Pointer {
            offset: self.offset + elements,
            ..self
        }
    }
}

/// What is run.
pub enum Work {
    /// A kernel: which of [`Program::specs`], its pointers and scalars.
    Kernel {
        /// Which of [`Program::specs`].
        spec: usize,
        /// Its operands and results.
        pointers: Vec<Pointer>,
        /// Its scalars.
        scalars: Vec<i64>,
    },
    /// Tiles of a dense product.
    Product(Product),
    /// A few numbers, by plain code.
    Host(Host),
}

/// Work items that workers share.
pub struct Launch {
    /// What each does.
    pub work: Work,
    /// How many.
    pub items: usize,
    /// Whether it neither reads nor writes what the launch before it writes, so that it need not
    /// wait for it.
    pub beside: bool,
}

/// What indices must be below.
pub struct Check {
    /// Which of [`Program::inputs`] they are.
    pub input: usize,
    /// One past the largest.
    pub limit: usize,
    /// Whether a negative one stands for none.
    pub optional: bool,
    /// The node that uses them.
    pub node: String,
}

/// An input of a run.
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its length.
    pub len: usize,
}

/// An output that is read back.
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether it is i32, and not f32.
    pub integers: bool,
    /// Where it is.
    pub from: Pointer,
}

/// A training graph as launches.
#[derive(Default)]
pub struct Program {
    /// The launches, in order.
    pub launches: Vec<Launch>,
    /// The kernels.
    pub specs: Vec<Box<dyn Spec>>,
    /// The inputs.
    pub inputs: Vec<Input>,
    /// What is checked of them.
    pub checks: Vec<Check>,
    /// The outputs.
    pub outputs: Vec<Output>,
    /// Known numbers.
    pub constants: Vec<f32>,
    /// Bytes of intermediate values.
    pub arena: usize,
    /// The most elements that a step needs for itself.
    pub scratch: usize,
}
