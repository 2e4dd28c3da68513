//! Launches recorded once and replayed with one call.

use std::sync::Arc;

use cudarc::driver::sys;

use super::driver::{Device, check};
use crate::error::Error;

/// A recorded sequence of launches.
pub struct Graph {
    device: Arc<Device>,
    executable: sys::CUgraphExec,
}

impl Graph {
    /// Records what `launch` puts on the device's stream.
    ///
    /// # Errors
    /// What `launch` gives, or work that cannot be recorded.
    pub fn record(
        device: &Arc<Device>,
        launch: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Graph, Error> {
        let (mut graph, mut executable) = (std::ptr::null_mut(), std::ptr::null_mut());
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: capture begins and ends on the same stream of this thread, whatever `launch`
        // returns; the graph is destroyed once it is instantiated.
        unsafe {
            check(
                sys::cuStreamBeginCapture_v2(device.stream(), mode),
                "recording a step",
            )?;
            let launched = launch();
            let ended = check(
                sys::cuStreamEndCapture(device.stream(), &mut graph),
                "recording a step",
            );
            launched.and(ended)?;
            let code = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            sys::cuGraphDestroy(graph);
            check(code, "preparing a step")?;
        }
        Ok(Graph {
            device: Arc::clone(device),
            executable,
        })
    }

    /// Puts the launches on the device's stream. The memory that they use must still be there.
    ///
    /// # Errors
    /// A device that was lost.
    pub fn run(&self) -> Result<(), Error> {
        // SAFETY: instantiated in `record`; the memory that its launches use belongs to the same
        // session.
        check(
            unsafe { sys::cuGraphLaunch(self.executable, self.device.stream()) },
            "running a step",
        )
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated in `record`, not running: sessions wait before they are dropped.
        unsafe {
            let _ = self.device.bind();
            sys::cuGraphExecDestroy(self.executable);
        }
    }
}
