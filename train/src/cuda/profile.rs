//! Where the time of a program goes.

use std::collections::BTreeMap;
use std::time::Instant;

use rabitc_runtime::cuda::graph::Graph;

use super::CudaEngine;
use super::check::kind;
use crate::engine::{EngineError, Program};

/// Replays of one measurement.
const REPLAYS: u32 = 4;

impl CudaEngine {
    /// The time of all steps of one kind after each other, in milliseconds, and their number; the
    /// longest first. Gradients are meaningless afterwards, and set to zero.
    ///
    /// # Errors
    /// As for a run.
    pub fn profile(
        &mut self,
        program: Program,
        inputs: &[(&str, &[i32])],
    ) -> Result<Vec<(String, f64, usize)>, EngineError> {
        let message = |e: rabitc_runtime::Error| EngineError::new(e.to_string());
        self.bind()?;
        let times = self.with(program.0, |program, this, at| {
            program.write_inputs(inputs)?;
            let mut kinds: BTreeMap<String, Vec<usize>> = BTreeMap::new();
            for (i, step) in program.plan.steps.iter().enumerate() {
                kinds.entry(kind(step)).or_default().push(i);
            }
            let mut times = Vec::new();
            for (kind, steps) in kinds {
                let launch = || {
                    let launched = steps
                        .iter()
                        .try_for_each(|i| program.launch(*i, &this.blas, at));
                    launched.map_err(|e| rabitc_runtime::Error::Cuda { reason: e.reason })
                };
                let graph = Graph::record(&this.device, launch).map_err(message)?;
                graph.run().map_err(message)?;
                this.device.synchronize().map_err(message)?;
                let start = Instant::now();
                (0..REPLAYS)
                    .try_for_each(|_| graph.run())
                    .map_err(message)?;
                this.device.synchronize().map_err(message)?;
                let seconds = start.elapsed().as_secs_f64() / f64::from(REPLAYS);
                times.push((kind, seconds * 1e3, steps.len()));
            }
            times.sort_by(|a, b| b.1.total_cmp(&a.1));
            Ok(times)
        })?;
        self.held()?.clear()?;
        Ok(times)
    }
}
