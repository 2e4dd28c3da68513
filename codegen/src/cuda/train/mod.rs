//! Steps of a training plan to launches of GPU kernels; dense products are the engine's.

mod attention;
mod cores;
mod kernel;
mod losses;
mod norms;

use rabitc_ir::DType;
use rabitc_rbx::SmArch;

use super::kernels::train::Layout;
use super::kernels::train::map::MapKernel;
use super::source::{CudaSpec, Source};
use crate::CodegenError;
use crate::train::{Map, Plan, Step, View};

/// A pointer argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arg {
    /// The first element of a view.
    View(View),
    /// This many bytes into the scratch memory of a step.
    Scratch(usize),
}

/// One kernel launch.
#[derive(Clone, Debug, PartialEq)]
pub struct Launch {
    /// The kernel.
    pub source: Source,
    /// Blocks.
    pub grid: [u32; 3],
    /// One pointer a parameter.
    pub args: Vec<Arg>,
}

/// The launches of one step, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Launches {
    /// The launches.
    pub launches: Vec<Launch>,
    /// Bytes of scratch memory that they need.
    pub scratch: usize,
}

/// The launches of a step that is no dense product; none for those.
///
/// # Errors
/// What no kernel takes; the message names the node.
pub fn launches(plan: &Plan, step: &Step, arch: SmArch) -> Result<Launches, CodegenError> {
    let mut lower = Lower {
        plan,
        arch,
        out: Launches::default(),
    };
    match step {
        Step::Gemm(_) => {}
        Step::Map(map) => lower.map(map)?,
        Step::Kernel(step) => lower.kernel(step)?,
    }
    let most = arch.shared_bytes() as u32;
    match lower.out.launches.iter().find(|l| l.source.shared > most) {
        None => Ok(lower.out),
        Some(launch) => Err(CodegenError::plan(format!(
            "%{}: kernel {} needs {} bytes of shared memory, a block of {arch} has {most}",
            step.node(),
            launch.source.name,
            launch.source.shared
        ))),
    }
}

struct Lower<'a> {
    plan: &'a Plan,
    arch: SmArch,
    out: Launches,
}

impl Lower<'_> {
    /// How a view lies.
    fn layout(&self, view: View) -> Layout {
        let View {
            offset,
            rows,
            columns,
            stride,
            ..
        } = view;
        let fits = |v: &usize| {
            columns.is_multiple_of(*v)
                && offset.is_multiple_of(*v)
                && (rows <= 1 || stride.is_multiple_of(*v))
        };
        let vector = [8, 4, 2].into_iter().find(fits).unwrap_or(1);
        Layout {
            dtype: self.plan.values[view.value].dtype,
            rows,
            columns,
            stride,
            vector,
        }
    }

    fn dtype(&self, view: View) -> DType {
        self.plan.values[view.value].dtype
    }

    /// Scratch memory of the step, on a boundary that every vector fits.
    fn scratch(&mut self, bytes: usize) -> Arg {
        let at = self.out.scratch;
        self.out.scratch = (at + bytes).next_multiple_of(256);
        Arg::Scratch(at)
    }

    fn launch(&mut self, spec: &dyn CudaSpec, grid: [u32; 3], args: Vec<Arg>) {
        let source = spec.source(self.arch);
        debug_assert_eq!(source.params.len(), args.len(), "{}", source.name);
        self.out.launches.push(Launch { source, grid, args });
    }

    /// The kernel of a map, or what another kernel has of it.
    fn map_kernel(&self, map: &Map) -> MapKernel {
        MapKernel {
            rows: map.rows,
            columns: map.columns,
            operands: map.operands.iter().map(|v| self.layout(*v)).collect(),
            terms: map.terms.clone(),
            stores: map
                .stores
                .iter()
                .map(|s| (s.term, self.layout(s.to), s.accumulate))
                .collect(),
        }
    }

    fn map(&mut self, map: &Map) -> Result<(), CodegenError> {
        let spec = self.map_kernel(map);
        let args = map.operands.iter().chain(map.stores.iter().map(|s| &s.to));
        let args = args.map(|v| Arg::View(*v)).collect();
        self.launch(&spec, line(spec.blocks()), args);
        Ok(())
    }
}

/// A grid of one dimension.
fn line(blocks: usize) -> [u32; 3] {
    [u32::try_from(blocks).unwrap_or(u32::MAX), 1, 1]
}
