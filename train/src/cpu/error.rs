//! Failures of other crates as the engine's.

use rabitc_codegen::CodegenError;
use rabitc_ir::GraphError;

use crate::engine::EngineError;

impl From<CodegenError> for EngineError {
    fn from(error: CodegenError) -> Self {
        EngineError::new(error.to_string())
    }
}

impl From<rabitc_runtime::Error> for EngineError {
    fn from(error: rabitc_runtime::Error) -> Self {
        EngineError::new(error.to_string())
    }
}

impl From<GraphError> for EngineError {
    fn from(error: GraphError) -> Self {
        EngineError::new(error.to_string())
    }
}
