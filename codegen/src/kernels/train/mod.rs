//! The kernels of training graphs: gradients, losses, and the update of weights.
//!
//! Everything is f32. A work item computes its results alone and in one order, so that results do
//! not depend on how items are shared out. What is summed over rows is summed in two steps: a
//! block of rows an item into partial sums, then these.

pub mod adamw;
pub mod attention;
pub mod attention_grad;
mod attention_rows;
pub mod column_sums;
pub mod cross_entropy;
pub mod effective_weight;
pub mod functions;
pub mod kl_divergence;
pub mod log_sum_exp;
pub mod map;
pub mod rms_norm_grad;
pub mod rows;
pub mod scatter_add;
pub mod squared_error;
pub mod sum_squares;
