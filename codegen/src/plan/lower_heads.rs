//! Rotation and attention as launches.

use rabitc_ir::Op;
use rabitc_rbx::Scalar;

use super::launch::{HostLaunch, Launch, LaunchWork, Operand, per_row};
use super::lower::{Here, Lowering};
use crate::CodegenError;
use crate::kernels::attention::Attention;
use crate::kernels::kv_append::KvAppend;
use crate::kernels::rope::Rope;

impl Lowering<'_> {
    pub(super) fn rope_table(
        &mut self,
        here: &Here,
        attention_factor: f32,
    ) -> Result<(), CodegenError> {
        let inv_freq = match self.graph.op(here.operands[1]) {
            Op::Const(c) => c.data.clone(),
            _ => return Err(self.unsupported(here.operands[1], "must be a constant")),
        };
        let out = self.result(here);
        self.launches.push(Launch {
            node: self.graph.node(here.id).name.clone(),
            work: LaunchWork::Host(HostLaunch::RopeTable {
                inv_freq,
                attention_factor,
                out,
            }),
        });
        Ok(())
    }

    pub(super) fn rope(&mut self, here: &Here) -> Result<(), CodegenError> {
        let (x, table) = (self.view(here.operands[0])?, self.view(here.operands[1])?);
        let spec = Rope {
            heads: here.d / table.stride,
            head_dim: table.stride,
            x_stride: x.stride,
            inverse: false,
        };
        let items = per_row(here.rows, spec.heads);
        let args = vec![x.read(), table.read(), self.result(here)];
        self.launch(here, spec, args, vec![], items);
        Ok(())
    }

    pub(super) fn attention(
        &mut self,
        here: &Here,
        op: &rabitc_ir::ops::attention::Attention,
    ) -> Result<(), CodegenError> {
        let [q, k, v] = [0, 1, 2].map(|i| self.view(here.operands[i]));
        let (q, k, v) = (q?, k?, v?);
        let append = KvAppend {
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            k_stride: k.stride,
            v_stride: v.stride,
        };
        let (keys, values) = (Operand::Keys(op.layer), Operand::Values(op.layer));
        let args = vec![k.read(), v.read(), keys.clone(), values.clone()];
        let scalars = vec![Scalar::Start, Scalar::Capacity];
        let items = per_row(here.rows, op.n_kv_heads);
        self.launch(here, append, args, scalars.clone(), items);
        let spec = Attention {
            n_heads: op.n_heads,
            n_kv_heads: op.n_kv_heads,
            head_dim: op.head_dim,
            q_stride: q.stride,
            scale: op.scale,
            window: op.window,
            softcap: op.softcap,
        };
        let args = vec![q.read(), keys, values, self.result(here)];
        let items = per_row(here.rows, op.n_heads);
        self.launch(here, spec, args, scalars, items);
        Ok(())
    }
}
