//! Element by element: what no other kernel took in.

use rabitc_ir::ops::gate::Activation;
use rabitc_rbx::SmArch;

use crate::cuda::source::{ACTIVATIONS, Builder, CudaSpec, Source};
use crate::kernels::Float;

/// The function.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// a + b
    Add,
    /// a ⊙ b
    Mul,
    /// a + bias, the same for every row
    AddBias(Float),
    /// act(a) ⊙ b
    Gate(Activation),
    /// act(a)
    Act(Activation),
    /// cap · tanh(a / cap)
    Softcap(f32),
}

/// One function over rows; blocks go over rows (x) and 1024 columns each (y).
#[derive(Clone, Debug, PartialEq)]
pub struct Elementwise {
    /// What is computed.
    pub function: Function,
    /// Columns.
    pub d: usize,
    /// f32 elements from one row of a to the next.
    pub a_stride: usize,
    /// The same for b, where it has rows.
    pub b_stride: usize,
}

/// Columns of a block.
pub const COLUMNS: usize = 1024;

impl Elementwise {
    fn word(&self) -> String {
        match self.function {
            Function::Add => "add".into(),
            Function::Mul => "mul".into(),
            Function::AddBias(float) => format!("add_bias_{}", float.name()),
            Function::Gate(act) => format!("gate_{}", act.name()),
            Function::Act(act) => act.name().into(),
            Function::Softcap(cap) => format!("softcap_{:08x}", cap.to_bits()),
        }
    }

    fn expression(&self) -> String {
        match self.function {
            Function::Add => "a[i] + b[j]".into(),
            Function::Mul => "a[i] * b[j]".into(),
            Function::AddBias(_) => "a[i] + load_bias(b, column)".into(),
            Function::Gate(act) => format!("{}(a[i]) * b[j]", act.name()),
            Function::Act(act) => format!("{}(a[i])", act.name()),
            Function::Softcap(_) => "CAP * tanh_exact(a[i] / CAP)".into(),
        }
    }
}

impl CudaSpec for Elementwise {
    fn name(&self) -> String {
        format!(
            "{}_{}_a{}_b{}",
            self.word(),
            self.d,
            self.a_stride,
            self.b_stride
        )
    }

    fn source(&self, arch: SmArch) -> Source {
        let mut b = Builder::new(self.name(), arch, 256)
            .int("D", self.d)
            .int("COLUMNS", COLUMNS)
            .int("A_STRIDE", self.a_stride)
            .int("B_STRIDE", self.b_stride)
            .helper(ACTIVATIONS);
        if let Function::Softcap(cap) = self.function {
            b = b.float("CAP", cap);
        }
        if let Function::AddBias(float) = self.function {
            b = b.loader("load_bias", float);
        }
        let binary = !matches!(self.function, Function::Act(_) | Function::Softcap(_));
        let bias = matches!(self.function, Function::AddBias(_));
        let b = b.param("const float", "a");
        let b = b.param_if(binary, if bias { "const void" } else { "const float" }, "b");
        b.param("float", "out")
            .body(&BODY.replace("$VALUE", &self.expression()))
    }
}

const BODY: &str = r#"
  allow_next();
  wait_for_previous();
  const size_t row = blockIdx.x;
  const int end = min(D, (int)(blockIdx.y + 1) * COLUMNS);
  for (int column = blockIdx.y * COLUMNS + threadIdx.x; column < end; column += blockDim.x) {
    const size_t i = row * A_STRIDE + column, j = row * B_STRIDE + column;
    out[row * D + column] = $VALUE;
  }
"#;
