//! Where the time of a step goes: parts of it, replayed alone.

use cudarc::driver::sys;
use rabitc_rbx::GpuTarget;
use serde::Serialize;

use super::driver::{Device, check};
use super::graph::Graph;
use super::session::CudaSession;
use crate::error::Error;

/// What a part of a step consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// All launches of one kernel.
    Kernel,
    /// Launches of several kernels, which are parts themselves.
    Group,
    /// All launches.
    Step,
}

/// One part of a step.
#[derive(Clone, Debug)]
pub struct Part {
    /// What it consists of.
    pub kind: Kind,
    /// The kernel, or what the group is.
    pub name: String,
    /// The nodes that its launches compute, in order; of a kernel only.
    pub nodes: Vec<String>,
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

/// Name of the part that all residual-binary products of a step are.
pub const PRODUCTS: &str = "all residual-binary products";
/// Name of the part that the other launches are.
pub const OTHERS: &str = "everything else";
/// Name of the part that all launches are.
pub const STEP: &str = "the whole step";

/// What is measured: a program, for so many tokens and rows of logits.
#[derive(Clone, Copy)]
struct Run {
    program: usize,
    tokens: usize,
    rows: usize,
}

/// Tokens that are few.
const FEW: usize = 16;

/// Replays of one measurement, of few tokens and of many.
const REPLAYS: [usize; 2] = [20, 4];
/// Measurements, of which the median counts.
const ROUNDS: usize = 7;

impl CudaSession {
    /// Measures a step for `tokens` tokens at the session's memory as it is, `position` positions
    /// in. Few tokens get all their logits, as drafts that are checked do; of a prompt's, the last.
    pub(crate) fn profile(
        &mut self,
        target: &GpuTarget,
        tokens: usize,
        position: usize,
    ) -> Result<Profile, Error> {
        let model = self.model().clone();
        model.device.bind()?;
        let program = self.program(tokens).ok_or_else(|| Error::Step {
            reason: format!("no program takes {tokens} tokens"),
        })?;
        let rows = if tokens <= FEW { tokens } else { 1 };
        let asked: Vec<u32> = (0..rows as u32).collect();
        self.write_inputs(&vec![0; tokens], &asked, position)?;
        let run = Run {
            program,
            tokens,
            rows,
        };
        let steps = &target.programs[program].steps;
        let name = |kernel: usize| target.kernels[kernel].name.clone();
        let mut names: Vec<usize> = steps.iter().map(|s| s.kernel).collect();
        names.sort_unstable();
        names.dedup();
        let mut parts = Vec::new();
        for kernel in names {
            let name = name(kernel);
            parts.push(self.part(target, run, Kind::Kernel, name, &|k| k == kernel)?);
        }
        let product = |k: usize| {
            let name = &target.kernels[k].name;
            name.starts_with("rb_") && !name.starts_with("rb_prepare")
        };
        let mut group = |kind, name: &str, wanted: &dyn Fn(usize) -> bool| {
            parts.push(self.part(target, run, kind, name.into(), wanted)?);
            Ok::<_, Error>(())
        };
        group(Kind::Group, PRODUCTS, &product)?;
        group(Kind::Group, OTHERS, &|k| !product(k))?;
        group(Kind::Step, STEP, &|_| true)?;
        Ok(Profile {
            read_bandwidth: self.read_bandwidth(target)?,
            parts,
        })
    }

    /// The launches of a program for so many tokens whose kernel is `wanted`, one after the other.
    fn part(
        &self,
        target: &GpuTarget,
        run: Run,
        kind: Kind,
        name: String,
        wanted: &dyn Fn(usize) -> bool,
    ) -> Result<Part, Error> {
        let model = self.model();
        let launches = self
            .launches(run.program)
            .iter()
            .filter(|l| wanted(l.kernel));
        let launches: Vec<_> = launches.collect();
        let graph = Graph::record(&model.device, || {
            launches
                .iter()
                .try_for_each(|l| l.run(&model.kernels, run.tokens, run.rows))
        })?;
        let steps = target.programs[run.program].steps.iter();
        let steps: Vec<_> = steps.filter(|s| wanted(s.kernel)).collect();
        let bytes = steps.iter().map(|s| model.bytes_read(target, s)).sum();
        let nodes = steps.iter().filter(|_| kind == Kind::Kernel);
        Ok(Part {
            kind,
            name,
            nodes: nodes.map(|s| s.node.clone()).collect(),
            launches: launches.len(),
            microseconds: median_time(
                &model.device,
                REPLAYS[usize::from(run.tokens > FEW)],
                &|| graph.run(),
            )? * 1e6,
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
        let seconds = median_time(&model.device, REPLAYS[0], &|| {
            // SAFETY: the probe's three parameters; the memory is the model's and the session's,
            // and the measurement waits for every run.
            unsafe { probe.launch([blocks, 1, 1], &[address, count, out]) }
        })?;
        Ok(bytes as f64 / seconds)
    }
}

/// Seconds that one run of `work` takes when runs follow each other.
fn median_time(
    device: &Device,
    replays: usize,
    work: &dyn Fn() -> Result<(), Error>,
) -> Result<f64, Error> {
    let (start, end) = (Event::new()?, Event::new()?);
    work()?;
    let mut seconds = Vec::with_capacity(ROUNDS);
    for _ in 0..ROUNDS {
        start.record(device)?;
        (0..replays).try_for_each(|_| work())?;
        end.record(device)?;
        device.synchronize()?;
        seconds.push(start.seconds_until(&end)? / replays as f64);
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[ROUNDS / 2])
}

/// A point in time on a stream.
pub(super) struct Event(sys::CUevent);

impl Event {
    pub fn new() -> Result<Event, Error> {
        let mut event = std::ptr::null_mut();
        // SAFETY: the pointer is to a local.
        let code = unsafe { sys::cuEventCreate(&mut event, 0) };
        check(code, "creating an event")?;
        Ok(Event(event))
    }

    pub fn record(&self, device: &Device) -> Result<(), Error> {
        // SAFETY: event and stream are alive.
        check(
            unsafe { sys::cuEventRecord(self.0, device.stream()) },
            "recording an event",
        )
    }

    pub fn seconds_until(&self, end: &Event) -> Result<f64, Error> {
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
