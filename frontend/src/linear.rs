//! Linear layers, in whichever of three forms the checkpoint holds them: a dense weight, a dense
//! weight with the scales of its residual-binary paths, or packed signs with scales.

use rabitc_ir::NodeId;
use rabitc_ir::ops::elementwise::Add;
use rabitc_ir::ops::linear::Linear;
use rabitc_ir::ops::paths::{BinaryMatmul, Scale};
use rabitc_ir::ops::residual_sign::ResidualSign;

use crate::blocks::Builder;
use crate::checkpoint::{BITS, INPUT_SCALES, OUTPUT_SCALES};
use crate::error::Error;
use crate::tensors::{Form, Role};

impl Builder<'_> {
    /// y = x Wᵀ for the layer `name`, from the width of x to `d_out`. The node that holds y is
    /// named `name`.
    pub fn linear(&mut self, name: &str, x: NodeId, d_out: usize) -> Result<NodeId, Error> {
        let d_in = self.graph.ty(x).last().unwrap_or(0);
        let role = match name {
            "lm_head" => Role::Head,
            _ => Role::Linear,
        };
        let paths = match self.source.form(name)? {
            Form::Dense => {
                let weight = self.weight(&format!("{name}.weight"), &[d_out, d_in], role)?;
                return self.add(name, Linear {}, &[x, weight]);
            }
            Form::Trained { paths } | Form::Packed { paths } => paths,
        };
        let g = self.scales(name, OUTPUT_SCALES, paths, d_out)?;
        let h = self.scales(name, INPUT_SCALES, paths, d_in)?;
        let signs = match self.source.form(name)? {
            Form::Packed { .. } => {
                let tensor = format!("{name}{BITS}");
                self.weight(&tensor, &[paths, d_out, d_in], Role::Signs)?
            }
            _ => {
                let weight = self.weight(&format!("{name}.weight"), &[d_out, d_in], role)?;
                self.add(&format!("{name}.signs"), ResidualSign {}, &[weight, g, h])?
            }
        };
        self.paths(name, x, [signs, g, h], paths)
    }

    fn scales(
        &mut self,
        name: &str,
        suffix: &str,
        paths: usize,
        width: usize,
    ) -> Result<NodeId, Error> {
        self.weight(&format!("{name}{suffix}"), &[paths, width], Role::Scales)
    }

    /// The sum of the paths g_i ⊙ (B_i (h_i ⊙ x)); the last node is named `name`.
    fn paths(
        &mut self,
        name: &str,
        x: NodeId,
        [signs, g, h]: [NodeId; 3],
        paths: usize,
    ) -> Result<NodeId, Error> {
        let mut sum: Option<NodeId> = None;
        for i in 0..paths {
            let last = i + 1 == paths;
            let y = match last && i == 0 {
                true => name.to_string(),
                false => format!("{name}.y{i}"),
            };
            let u = self.add(&format!("{name}.u{i}"), Scale { row: i }, &[x, h])?;
            let p = self.add(
                &format!("{name}.p{i}"),
                BinaryMatmul { path: i },
                &[u, signs],
            )?;
            let y = self.add(&y, Scale { row: i }, &[p, g])?;
            sum = Some(match sum {
                None => y,
                Some(sum) => {
                    let total = match last {
                        true => name.to_string(),
                        false => format!("{name}.sum{i}"),
                    };
                    self.add(&total, Add {}, &[sum, y])?
                }
            });
        }
        sum.ok_or_else(|| Error::Option(format!("`{name}` has no paths")))
    }
}
