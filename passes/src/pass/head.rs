//! Gives the LM head the form that was asked for; residual-binary heads are left to `binarize`.

use rabitc_ir::ops::cast::Cast;
use rabitc_ir::ops::int8::{Int8Data, Int8Scale};
use rabitc_ir::ops::linear_int8::LinearInt8;
use rabitc_ir::{DType, Graph, Op};

use super::substitute;
use crate::PassError;
use crate::options::{HeadForm, Options};

/// Name of the node that is the LM head.
pub const HEAD: &str = "lm_head";

/// Rewrites the dense LM head.
pub fn run(graph: &mut Graph, options: &Options) -> Result<(), PassError> {
    if matches!(options.head, HeadForm::AsStored) {
        return Ok(());
    }
    let head = graph
        .find(HEAD)
        .filter(|h| matches!(graph.op(*h), Op::Linear(_)));
    let Some(head) = head else {
        return Err(PassError::Other(
            "the checkpoint's LM head is not dense: leave --lm-head out to keep its form".into(),
        ));
    };
    let operands = graph.operands(head);
    let (x, weight) = (operands[0], operands[1]);
    match options.head {
        HeadForm::Bf16 if graph.ty(weight).dtype != DType::BF16 => {
            let name = graph.fresh_name("lm_head.bf16");
            let cast = graph.add(&name, Cast { to: DType::BF16 }, &[weight])?;
            substitute(graph, head, graph.op(head).clone(), &[x, cast])?;
        }
        HeadForm::Int8 => {
            let name = graph.fresh_name("lm_head.int8");
            let data = graph.add(&name, Int8Data {}, &[weight])?;
            let name = graph.fresh_name("lm_head.scale");
            let scale = graph.add(&name, Int8Scale {}, &[weight])?;
            substitute(graph, head, LinearInt8 {}, &[x, data, scale])?;
        }
        _ => {}
    }
    Ok(())
}
