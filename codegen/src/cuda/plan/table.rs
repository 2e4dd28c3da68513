//! What the programs of a target share: kernels, derived memory, rotary tables.

use std::collections::HashMap;

use rabitc_ir::NodeId;
use rabitc_rbx::SmArch;
use rabitc_rbx::gpu::{Blocks, Derived, GpuArg, GpuStep, RopeTable};

use super::product::{Cut, Measured, Product, choose};
use crate::cuda::source::CudaSpec;

/// Device memory of a residual-binary layer, as numbers of derived tensors.
#[derive(Clone, Copy, Debug)]
pub struct PackedLayer {
    /// Signs.
    pub signs: usize,
    /// Output scales.
    pub g: usize,
    /// Input scales.
    pub h: usize,
    /// Input scales in the order of the product of many tokens.
    pub h_steps: usize,
}

/// The tables under construction.
pub struct Table<'a> {
    /// The kernels in order of first use.
    pub specs: Vec<Box<dyn CudaSpec>>,
    /// Derived memory.
    pub derived: Vec<Derived>,
    /// Rotary tables.
    pub rope_tables: Vec<RopeTable>,
    /// Launches that fill the derived memory.
    pub setup: Vec<GpuStep>,
    /// Layers whose memory is there.
    pub packed: HashMap<NodeId, PackedLayer>,
    /// Products that could be cut in other ways, each problem once.
    pub products: Vec<Product>,
    /// The program that is being planned.
    pub program: &'static str,
    measured: Measured<'a>,
    numbers: HashMap<String, usize>,
}

impl<'a> Table<'a> {
    /// Empty tables.
    pub fn new(measured: Measured<'a>) -> Table<'a> {
        Table {
            specs: Vec::new(),
            derived: Vec::new(),
            rope_tables: Vec::new(),
            setup: Vec::new(),
            packed: HashMap::new(),
            products: Vec::new(),
            program: "",
            measured,
            numbers: HashMap::new(),
        }
    }

    /// Chooses how a product is cut, and remembers that it was a choice; `None` if nothing fits.
    pub fn cut<T: Cut>(&mut self, wanted: &T, arch: SmArch) -> Option<T> {
        let (cut, product) = choose(wanted, arch, self.program, self.measured)?;
        let mut known = self.products.iter_mut();
        match known.find(|p| p.problem == product.problem) {
            Some(known) if known.program == self.program => known.launches += 1,
            Some(_) => {}
            None => self.products.push(product),
        }
        Some(cut)
    }

    /// The number of a kernel; a new one if no kernel has its name yet.
    pub fn kernel(&mut self, spec: impl CudaSpec + 'static) -> usize {
        let next = self.specs.len();
        let number = *self.numbers.entry(spec.name()).or_insert(next);
        if number == next {
            self.specs.push(Box::new(spec));
        }
        number
    }

    /// New derived memory.
    pub fn derive(&mut self, name: String, bytes: usize) -> usize {
        self.derived.push(Derived { name, bytes });
        self.derived.len() - 1
    }

    /// A launch at load.
    pub fn set_up(
        &mut self,
        node: &str,
        spec: impl CudaSpec + 'static,
        blocks: usize,
        args: Vec<GpuArg>,
    ) {
        let kernel = self.kernel(spec);
        self.setup.push(GpuStep {
            node: node.to_string(),
            kernel,
            grid: [Blocks::Fixed(blocks as u32), Blocks::ONE, Blocks::ONE],
            args,
        });
    }

    /// The number of a rotary table.
    pub fn rope(&mut self, table: RopeTable) -> usize {
        match self.rope_tables.iter().position(|t| *t == table) {
            Some(number) => number,
            None => {
                self.rope_tables.push(table);
                self.rope_tables.len() - 1
            }
        }
    }
}
