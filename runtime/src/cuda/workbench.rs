//! Kernels outside any model: loaded, launched on memory of their own, and timed. For tuning.

use std::sync::Arc;

use rabitc_rbx::gpu::GpuKernel;

use super::driver::{Device, DeviceMemory};
use super::graph::Graph;
use super::launch::{Kernel, MOST_PARAMS};
use super::profile::Event;
use crate::error::Error;

/// A device to try kernels on.
pub struct Workbench {
    device: Arc<Device>,
}

/// A kernel that is ready to be launched on a workbench.
pub struct Tool {
    kernel: Kernel,
    name: String,
    params: usize,
}

/// One launch: blocks, and a place in device memory for every parameter.
pub struct Launch<'a> {
    tool: &'a Tool,
    grid: [u32; 3],
    args: Vec<(&'a DeviceMemory, usize)>,
}

impl<'a> Launch<'a> {
    /// A launch of `grid` blocks along x, y and z, with a memory and a byte offset in it for each
    /// parameter, in order.
    ///
    /// # Safety
    /// From each offset on, the memory is as long as the kernel reads or writes there.
    pub unsafe fn new(
        tool: &'a Tool,
        grid: [u32; 3],
        args: Vec<(&'a DeviceMemory, usize)>,
    ) -> Self {
        Launch { tool, grid, args }
    }
}

/// A recorded sequence of launches.
pub struct Recording<'a> {
    graph: Graph,
    bench: &'a Workbench,
}

impl Workbench {
    /// Opens device `ordinal`.
    ///
    /// # Errors
    /// No driver, or no such device.
    pub fn open(ordinal: usize) -> Result<Workbench, Error> {
        Ok(Workbench {
            device: Device::open(ordinal)?,
        })
    }

    /// The device.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Loads a cubin.
    ///
    /// # Errors
    /// Bytes that are no machine code for the device.
    pub fn load(&self, kernel: &GpuKernel, cubin: &[u8]) -> Result<Tool, Error> {
        self.device.bind()?;
        let fails = |reason: &str| Error::Cuda {
            reason: format!("{}: {reason}", kernel.name),
        };
        // The driver gets a pointer without a length.
        if !cubin.starts_with(b"\x7fELF") {
            return Err(fails("no machine code"));
        }
        if kernel.params.len() > MOST_PARAMS {
            return Err(fails("too many parameters"));
        }
        let loaded = Kernel::load(&self.device, kernel, cubin)?;
        if kernel.overlaps {
            loaded.prefer_shared_memory()?;
        }
        Ok(Tool {
            kernel: loaded,
            name: kernel.name.clone(),
            params: kernel.params.len(),
        })
    }

    /// Zeroed memory.
    ///
    /// # Errors
    /// Less memory than that is free.
    pub fn memory(&self, bytes: usize) -> Result<DeviceMemory, Error> {
        self.device.bind()?;
        DeviceMemory::zeroed(&self.device, bytes, "tuning")
    }

    /// Launches one after the other and waits.
    ///
    /// # Errors
    /// A place outside its memory, or a kernel that failed.
    pub fn run(&self, launches: &[Launch<'_>]) -> Result<(), Error> {
        self.device.bind()?;
        self.start(launches)?;
        self.device.synchronize()
    }

    /// Records launches, to be replayed as often as wanted.
    ///
    /// # Errors
    /// As [`Workbench::run`].
    pub fn record<'a>(&'a self, launches: &[Launch<'a>]) -> Result<Recording<'a>, Error> {
        self.device.bind()?;
        let graph = Graph::record(&self.device, || self.start(launches))?;
        Ok(Recording { graph, bench: self })
    }

    fn start(&self, launches: &[Launch<'_>]) -> Result<(), Error> {
        for launch in launches {
            let tool = launch.tool;
            let inside = |(memory, offset): &(&DeviceMemory, usize)| *offset < memory.bytes();
            if launch.args.len() != tool.params || !launch.args.iter().all(inside) {
                return Err(Error::Cuda {
                    reason: format!("{}: arguments do not fit", tool.name),
                });
            }
            let pointers: Vec<u64> = launch.args.iter().map(|(m, o)| m.at(*o)).collect();
            // SAFETY: a pointer for every parameter, as was checked, into memory that is borrowed
            // until the work has ended and that whoever made the launch vouches for.
            unsafe { tool.kernel.launch(launch.grid, &pointers) }?;
        }
        Ok(())
    }
}

impl Recording<'_> {
    /// Seconds that a replay takes when `replays` of them follow each other.
    ///
    /// # Errors
    /// A kernel that failed.
    pub fn seconds(&self, replays: usize) -> Result<f64, Error> {
        let device = &self.bench.device;
        device.bind()?;
        let (start, end) = (Event::new()?, Event::new()?);
        self.graph.run()?;
        start.record(device)?;
        (0..replays).try_for_each(|_| self.graph.run())?;
        end.record(device)?;
        device.synchronize()?;
        Ok(start.seconds_until(&end)? / replays.max(1) as f64)
    }
}
