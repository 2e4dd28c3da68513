//! A graph as launches over buffers, and the places of the buffers in one arena.

use rabitc_ir::{Dim, NodeId};
use rabitc_rbx::gpu::{Blocks, GpuArg, GpuProgram, GpuStep};

use super::Mode;
use crate::CodegenError;
pub use crate::plan::launch::View;
use crate::plan::launch::{Buffer, BufferId};
use crate::plan::place::place;

/// A pointer argument before buffers have places.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A byte offset into a buffer.
    Buffer {
        /// The buffer.
        id: BufferId,
        /// The offset.
        offset: usize,
    },
    /// Anything else.
    Arg(GpuArg),
}

impl Operand {
    /// The beginning of a buffer.
    pub fn to(id: BufferId) -> Operand {
        Operand::Buffer { id, offset: 0 }
    }
}

impl From<View> for Operand {
    fn from(view: View) -> Operand {
        Operand::Buffer {
            id: view.buffer,
            offset: view.column * 4,
        }
    }
}

/// A launch before buffers have places.
pub struct Launch {
    /// The graph node.
    pub node: String,
    /// Number of the kernel.
    pub kernel: usize,
    /// Blocks.
    pub grid: [Blocks; 3],
    /// Pointers.
    pub args: Vec<Operand>,
    /// Whether it works on the rows whose logits are asked for, not on all tokens.
    pub by_rows: bool,
}

/// A piece of memory that launches pass values in, before it has a place.
#[derive(Clone, Copy, Debug)]
pub struct RowBuffer {
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Whether its rows are those asked for, not all tokens.
    pub by_rows: bool,
}

impl RowBuffer {
    /// The whole buffer in a program; `None` if its size overflows.
    pub fn bytes(&self, mode: Mode) -> Option<Buffer> {
        let rows = match self.by_rows {
            true => mode.max_rows,
            false => mode.max_tokens,
        };
        let row_bytes = self.row_bytes.checked_mul(rows)?;
        Some(Buffer { row_bytes })
    }
}

/// A graph as launches over buffers.
pub struct Lowered {
    /// The launches in order.
    pub launches: Vec<Launch>,
    /// The buffers.
    pub buffers: Vec<RowBuffer>,
    /// The buffer that holds the logits.
    pub logits: BufferId,
}

/// What the lowering functions need to know of the node in hand.
pub struct Here {
    /// The node.
    pub id: NodeId,
    /// Its operands.
    pub operands: Vec<NodeId>,
    pub(super) rows: Dim,
    /// Columns of the result.
    pub d: usize,
}

impl Here {
    /// Whether its rows are those asked for, not all tokens.
    pub fn by_rows(&self) -> bool {
        self.rows == Dim::Rows
    }

    /// How many rows it has at most.
    pub fn most(&self, mode: Mode) -> usize {
        match self.by_rows() {
            true => mode.max_rows,
            false => mode.max_tokens,
        }
    }

    /// One block for every `each` of its rows.
    pub fn blocks(&self, each: u32) -> Blocks {
        match self.rows {
            Dim::Rows => Blocks::PerRows(each),
            _ => Blocks::PerTokens(each),
        }
    }
}

/// Places buffers and resolves operands.
pub fn finish(lowered: Lowered, mode: Mode) -> Result<GpuProgram, CodegenError> {
    let head = head(&lowered)?;
    let live = lifetimes(&lowered, head);
    let sizes = lowered.buffers.iter().map(|b| b.bytes(mode));
    let placement = sizes
        .collect::<Option<Vec<_>>>()
        .and_then(|buffers| place(&buffers, &live, 1))
        .ok_or_else(|| CodegenError::plan("the buffers of a step overflow the address space"))?;
    let arg = |operand: Operand| match operand {
        Operand::Buffer { id, offset, .. } => GpuArg::Arena(placement.offsets[id] + offset),
        Operand::Arg(arg) => arg,
    };
    let steps = lowered.launches.into_iter().map(|l| GpuStep {
        node: l.node,
        kernel: l.kernel,
        grid: l.grid,
        args: l.args.into_iter().map(arg).collect(),
    });
    Ok(GpuProgram {
        name: mode.name.into(),
        max_tokens: mode.max_tokens,
        max_rows: mode.max_rows,
        head,
        arena_bytes: placement.bytes,
        logits: placement.offsets[lowered.logits],
        steps: steps.collect(),
    })
}

/// The first of the launches that work on the rows whose logits are asked for; they come last.
fn head(lowered: &Lowered) -> Result<usize, CodegenError> {
    let launches = &lowered.launches;
    let head = launches.iter().position(|l| l.by_rows);
    let head = head.unwrap_or(launches.len());
    match launches[head..].iter().find(|l| !l.by_rows) {
        None => Ok(head),
        Some(launch) => Err(CodegenError::plan(format!(
            "{} works on all tokens, but comes after what works on single rows",
            launch.node
        ))),
    }
}

/// First and last launch that touch every buffer. The logits live to the end, and so does what the
/// launches from `head` on read of those before: they may run several times.
fn lifetimes(lowered: &Lowered, head: usize) -> Vec<(usize, usize)> {
    let mut live = vec![(usize::MAX, 0); lowered.buffers.len()];
    for (n, launch) in lowered.launches.iter().enumerate() {
        for operand in &launch.args {
            if let Operand::Buffer { id, .. } = operand {
                let (first, last) = &mut live[*id];
                *first = (*first).min(n);
                *last = match *first < head && n >= head {
                    true => usize::MAX,
                    false => (*last).max(n),
                };
            }
        }
    }
    live[lowered.logits].1 = usize::MAX;
    live
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(buffers: &[BufferId], by_rows: bool) -> Launch {
        Launch {
            node: "a_node".into(),
            kernel: 0,
            grid: [Blocks::ONE; 3],
            args: buffers.iter().map(|id| Operand::to(*id)).collect(),
            by_rows,
        }
    }

    /// Buffers 0 and 1 belong to all tokens, 2, 3 and 4 to rows.
    fn lowered(launches: Vec<Launch>) -> Lowered {
        let buffer = |n| RowBuffer {
            row_bytes: 64,
            by_rows: n > 1,
        };
        Lowered {
            launches,
            buffers: (0..5).map(buffer).collect(),
            logits: 4,
        }
    }

    const MODE: Mode = Mode {
        name: "prompt",
        max_tokens: 10,
        max_rows: 3,
        many: true,
    };

    #[test]
    fn a_head_that_runs_again_finds_what_it_reads() {
        let lowered = lowered(vec![
            launch(&[0], false),
            launch(&[0, 1], false),
            launch(&[1, 2], true),
            launch(&[2, 3], true),
            launch(&[3, 4], true),
        ]);
        let program = finish(lowered, MODE).unwrap();
        assert_eq!((program.head, program.max_rows), (2, 3));
        let place = |step: usize, arg: usize| match program.steps[step].args[arg] {
            GpuArg::Arena(offset) => offset,
            _ => panic!("a buffer"),
        };
        let tokens = place(1, 1)..place(1, 1) + 640;
        for (step, arg) in [(2, 1), (3, 1), (4, 1)] {
            let rows = place(step, arg)..place(step, arg) + 192;
            assert!(rows.end <= tokens.start || tokens.end <= rows.start);
        }
        // Nothing else has to stay: rows lie where the first buffer was.
        assert!(program.arena_bytes < 640 + 640 + 192);
    }

    #[test]
    fn what_works_on_all_tokens_comes_before_what_works_on_rows() {
        let lowered = lowered(vec![launch(&[1, 2], true), launch(&[0, 1], false)]);
        let error = finish(lowered, MODE).unwrap_err().to_string();
        assert!(error.contains("a_node works on all tokens"), "{error}");
    }
}
