//! Where the time of a decode step goes: parts of it, replayed alone.

use cudarc::driver::sys;
use rabitc_rbx::GpuTarget;

use super::driver::{Device, check};
use super::graph::Graph;
use super::session::CudaSession;
use crate::error::Error;

/// One part of a step.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it is.
    pub name: String,
    /// Launches of it in a step.
    pub launches: usize,
    /// Microseconds that they take when they follow each other, in all.
    pub microseconds: f64,
    /// Bytes of signs, scales and weights that they read, where that is known.
    pub bytes: u64,
}

/// The parts, and what the memory allows.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Bytes a second that a kernel reads which does nothing else.
    pub read_bandwidth: f64,
    /// Every kernel of the step, then groups of them, then the step.
    pub parts: Vec<Part>,
}

/// Replays of one measurement.
const REPLAYS: usize = 20;
/// Measurements, of which the median counts.
const ROUNDS: usize = 7;

impl CudaSession {
    /// Measures the step for one token at the session's memory as it is, `position` positions in.
    pub(crate) fn profile(
        &mut self,
        target: &GpuTarget,
        position: usize,
    ) -> Result<Profile, Error> {
        let model = self.model().clone();
        model.device.bind()?;
        self.write_inputs(&[0], &[0], position)?;
        let steps = &target.programs[0].steps;
        let name = |kernel: usize| target.kernels[kernel].name.clone();
        let mut names: Vec<usize> = steps.iter().map(|s| s.kernel).collect();
        names.sort_unstable();
        names.dedup();
        let mut parts = Vec::new();
        for kernel in names {
            parts.push(self.part(target, name(kernel), &|k| k == kernel)?);
        }
        let product = |k: usize| {
            let name = &target.kernels[k].name;
            name.starts_with("rb_gemv") || name.starts_with("rb_product")
        };
        parts.push(self.part(target, "all residual-binary products".into(), &product)?);
        parts.push(self.part(target, "everything else".into(), &|k| !product(k))?);
        parts.push(self.part(target, "the whole step".into(), &|_| true)?);
        Ok(Profile {
            read_bandwidth: self.read_bandwidth(target)?,
            parts,
        })
    }

    /// The launches of the step whose kernel is `wanted`, one after the other.
    fn part(
        &self,
        target: &GpuTarget,
        name: String,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Part, Error> {
        let model = self.model();
        let launches = self.launches().iter().filter(|l| wanted(l.kernel));
        let launches: Vec<_> = launches.collect();
        let graph = Graph::record(&model.device, || {
            launches
                .iter()
                .try_for_each(|l| l.run(&model.kernels, 1, 1))
        })?;
        let steps = target.programs[0].steps.iter().filter(|s| wanted(s.kernel));
        let bytes = steps.map(|s| model.bytes_read(target, s)).sum();
        Ok(Part {
            name,
            launches: launches.len(),
            microseconds: median_time(&model.device, &|| graph.run())? * 1e6,
            bytes,
        })
    }

    /// Bytes a second that a kernel reads which does nothing else.
    pub(crate) fn read_bandwidth(&self, target: &GpuTarget) -> Result<f64, Error> {
        let model = self.model();
        model.device.bind()?;
        let (address, bytes) = model.all_memory();
        let blocks = model.device.info.multiprocessors as u32 * 4;
        let (count, out) = self.scratch();
        self.write_scratch(&((bytes / 16) as u64).to_le_bytes())?;
        let probe = &model.kernels[target.probe];
        let seconds = median_time(&model.device, &|| {
            probe.launch([blocks, 1, 1], &[address, count, out])
        })?;
        Ok(bytes as f64 / seconds)
    }
}

/// Seconds that one run of `work` takes when runs follow each other.
fn median_time(device: &Device, work: &dyn Fn() -> Result<(), Error>) -> Result<f64, Error> {
    let (start, end) = (Event::new()?, Event::new()?);
    work()?;
    let mut seconds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        start.record(device)?;
        (0..REPLAYS).try_for_each(|_| work())?;
        end.record(device)?;
        device.synchronize()?;
        seconds.push(start.seconds_until(&end)? / REPLAYS as f64);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[ROUNDS / 2])
}

/// A point in time on a stream.
struct Event(sys::CUevent);

impl Event {
    fn new() -> Result<Event, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        let code = unsafe { sys::cuEventCreate(&mut event, 0) };
        check(code, "creating an event")?;
        Ok(Event(event))
    }

    fn record(&self, device: &Device) -> Result<(), Error> {
        // SAFETY: event and stream are alive.
        check(
            unsafe { sys::cuEventRecord(self.0, device.stream()) },
            "recording an event",
        )
    }

    fn seconds_until(&self, end: &Event) -> Result<f64, Error> {
        let mut milliseconds = 0.0;
        // SAFETY: both were recorded and waited for.
        let code = unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, self.0, end.0) };
        check(code, "reading an event")?;
        Ok(f64::from(milliseconds) / 1e3)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: created in `new`, destroyed once.
        unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}
