//! What goes over rows: rotations, embeddings, sums.

use rabitc_codegen::cuda::kernels::train::column_sum::ColumnSum;
use rabitc_codegen::cuda::kernels::train::embed::Embed;
use rabitc_codegen::cuda::kernels::train::rope::{Rope, RopeTable};
use rabitc_codegen::cuda::kernels::train::scatter_add::ScatterAdd;
use rabitc_ir::DType::{BF16, F32};

use super::{Case, case, dense, part};

pub fn cases() -> Vec<Case> {
    vec![
        case(
            "column_sum",
            ColumnSum {
                x: dense(BF16, 1000, 33),
                chunk: 512,
            },
        ),
        case(
            "rope",
            Rope {
                x: part(BF16, 300, 64, 256),
                out: dense(BF16, 300, 64),
                half: 16,
                back: false,
            },
        ),
        case(
            "rope_table",
            RopeTable {
                rows: 300,
                half: 16,
                factor: 1.0,
            },
        ),
        case(
            "embed",
            Embed {
                table: dense(BF16, 2048, 96),
                out: dense(F32, 300, 96),
                scale: 1.0,
            },
        ),
        case(
            "scatter_add",
            ScatterAdd {
                x: dense(BF16, 300, 96),
                rows: 2048,
                scale: 1.0,
                accumulate: true,
            },
        ),
    ]
}
