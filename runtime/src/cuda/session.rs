//! One sequence on a device: cache, arena, and the programs with every pointer resolved.

use std::sync::Arc;

use rabitc_rbx::Manifest;
use rabitc_rbx::gpu::{GpuArg, GpuProgram, GpuStep};

use super::choose::{Choice, Choosers};
use super::driver::DeviceMemory;
use super::graph::Graph;
use super::launch::{Kernel, ReadyLaunch};
use super::model::CudaModel;
use super::places::{Places, SCRATCH, STATE, needed, rope_bytes};
use crate::error::Error;

/// Programs for more tokens than this are launched kernel by kernel.
const RECORDED: usize = 16;

/// A sequence on a device.
pub struct CudaSession {
    // Dropped first: they point into everything below.
    steps: Vec<Option<Graph>>,
    pub(super) choosers: Choosers,
    programs: Vec<ReadyProgram>,
    pub(super) memory: DeviceMemory,
    pub(super) places: Places,
    capacity: usize,
    vocab: usize,
    logits: Vec<f32>,
    inputs: Vec<u8>,
    model: Arc<CudaModel>,
}

/// A program with every pointer resolved.
pub(super) struct ReadyProgram {
    launches: Vec<ReadyLaunch>,
    max_tokens: usize,
    max_rows: usize,
    /// Index of the first launch that works on rows.
    head: usize,
    /// Byte offset of the logits in the session's memory.
    pub logits: usize,
    arena_bytes: usize,
}

impl ReadyProgram {
    /// Launches everything for `tokens` tokens and up to [`Self::max_rows`] rows.
    pub fn run(&self, kernels: &[Kernel], tokens: usize, rows: usize) -> Result<(), Error> {
        self.run_body(kernels, tokens)?;
        self.run_head(kernels, tokens, rows)
    }

    /// Launches what works on all tokens.
    fn run_body(&self, kernels: &[Kernel], tokens: usize) -> Result<(), Error> {
        let mut launches = self.launches[..self.head].iter();
        launches.try_for_each(|l| l.run(kernels, tokens, 0))
    }

    /// Launches what works on rows.
    fn run_head(&self, kernels: &[Kernel], tokens: usize, rows: usize) -> Result<(), Error> {
        let mut launches = self.launches[self.head..].iter();
        launches.try_for_each(|l| l.run(kernels, tokens, rows))
    }
}

impl CudaSession {
    /// Plans memory for `context` positions and records the decode step.
    pub(crate) fn new(
        model: Arc<CudaModel>,
        manifest: &Manifest,
        context: usize,
    ) -> Result<CudaSession, Error> {
        model.device.bind()?;
        let target = model.target(manifest);
        let capacity = context.next_multiple_of(16);
        let places = Places::new(manifest, target, capacity)
            .ok_or(Error::SizeOverflow { what: "a session" })?;
        let memory = DeviceMemory::zeroed(&model.device, places.end, "a session")?;
        for (table, place) in target.rope_tables.iter().zip(&places.ropes) {
            memory.write(*place, &rope_bytes(table, capacity))?;
        }
        let mut session = CudaSession {
            steps: Vec::new(),
            choosers: Choosers::default(),
            programs: Vec::new(),
            memory,
            places,
            capacity,
            vocab: manifest.model.vocab_size,
            logits: Vec::new(),
            inputs: Vec::new(),
            model: Arc::clone(&model),
        };
        for program in needed(target, capacity) {
            let ready = session.ready(program)?;
            session.programs.push(ready);
        }
        session.record()?;
        let [next, sample] = [&target.next, &target.sample].map(|s| session.ready_launch(s));
        session.choosers = Choosers::new(next?, sample?, target.ring);
        session.record_choice(Choice::Best)?;
        model.device.synchronize()?;
        Ok(session)
    }

    /// Bytes of the key/value cache.
    pub fn cache_bytes(&self) -> usize {
        self.places.end - self.places.caches
    }

    /// Bytes of device memory that the session takes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Tokens that one step takes at most.
    pub fn max_tokens(&self) -> usize {
        self.programs
            .iter()
            .map(|p| p.max_tokens)
            .max()
            .unwrap_or(0)
    }

    fn ready(&self, program: &GpuProgram) -> Result<ReadyProgram, Error> {
        let launches = program.steps.iter().map(|s| self.ready_launch(s));
        Ok(ReadyProgram {
            launches: launches.collect::<Result<_, _>>()?,
            max_tokens: program.max_tokens,
            max_rows: program.max_rows,
            head: program.head,
            logits: self.places.arena + program.logits,
            arena_bytes: program.arena_bytes,
        })
    }

    fn ready_launch(&self, step: &GpuStep) -> Result<ReadyLaunch, Error> {
        let pointers = step.args.iter().map(|arg| {
            let missing = || Error::Plan {
                reason: format!("step `{}` has no {arg:?}", step.node),
            };
            self.model
                .resolve(arg)
                .or_else(|| self.resolve(arg))
                .ok_or_else(missing)
        });
        Ok(ReadyLaunch {
            kernel: step.kernel,
            grid: step.grid,
            pointers: pointers.collect::<Result<_, _>>()?,
        })
    }

    fn resolve(&self, arg: &GpuArg) -> Option<u64> {
        Some(self.memory.at(self.places.offset(arg)?))
    }

    /// Records the programs for few tokens, for as many tokens and rows as they take: kernels look
    /// up how many there are, and what is computed of others is never read.
    fn record(&mut self) -> Result<(), Error> {
        let device = &self.model.device;
        for program in &self.programs {
            let most = program.max_tokens;
            let all = || program.run(&self.model.kernels, most, program.max_rows);
            let recorded = (most <= RECORDED).then(|| Graph::record(device, all));
            self.steps.push(recorded.transpose()?);
        }
        Ok(())
    }

    /// The program for one token, which the choice of the next can follow.
    pub(super) fn decode(&self) -> Option<&ReadyProgram> {
        self.programs.first().filter(|p| p.max_tokens == 1)
    }

    /// Copies what a step reads to the device.
    pub(super) fn write_inputs(
        &mut self,
        ids: &[u32],
        rows: &[u32],
        position: usize,
    ) -> Result<(), Error> {
        let state = [position, ids.len(), rows.len(), self.capacity];
        self.inputs.clear();
        self.inputs
            .extend(state.iter().flat_map(|n| (*n as u32).to_le_bytes()));
        self.memory.write(STATE, &self.inputs)?;
        for (place, values) in [(self.places.ids, ids), (self.places.rows, rows)] {
            self.inputs.clear();
            self.inputs
                .extend(values.iter().flat_map(|n| n.to_le_bytes()));
            if !self.inputs.is_empty() {
                self.memory.write(place, &self.inputs)?;
            }
        }
        Ok(())
    }

    pub(super) fn model(&self) -> &Arc<CudaModel> {
        &self.model
    }

    /// The launches of a program.
    pub(super) fn launches(&self, program: usize) -> &[ReadyLaunch] {
        self.programs.get(program).map_or(&[], |p| &p.launches)
    }

    /// Addresses of 8 bytes that the host may write, and of a word after them.
    pub(super) fn scratch(&self) -> (u64, u64) {
        let at = self.memory.at(SCRATCH);
        (at, at + 8)
    }

    pub(super) fn write_scratch(&self, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(SCRATCH, bytes)
    }

    /// The program for so many tokens.
    pub(crate) fn program(&self, tokens: usize) -> Option<usize> {
        let fits = self
            .programs
            .iter()
            .enumerate()
            .filter(|(_, p)| p.max_tokens >= tokens);
        fits.min_by_key(|(_, p)| p.max_tokens).map(|(i, _)| i)
    }

    /// Runs a program on checked ids and rows and gives the logits of the rows.
    pub(crate) fn step(
        &mut self,
        program: usize,
        ids: &[u32],
        rows: &[u32],
        position: usize,
    ) -> Result<&[f32], Error> {
        self.model.device.bind()?;
        let max_rows = self.programs[program].max_rows;
        let at_once = rows.len().min(max_rows);
        self.write_inputs(ids, &rows[..at_once], position)?;
        let count = rows.len() * self.vocab;
        self.logits.resize(count.max(self.logits.len()), 0.0);
        match (&self.steps[program], rows) {
            (Some(graph), [_, ..]) => graph.run()?,
            (_, []) => self.programs[program].run_body(&self.model.kernels, ids.len())?,
            _ => self.programs[program].run(&self.model.kernels, ids.len(), at_once)?,
        }
        if rows.is_empty() {
            self.model.device.synchronize()?;
        }
        for (number, block) in rows.chunks(max_rows).enumerate() {
            if number > 0 {
                self.write_inputs(ids, block, position)?;
                let ready = &self.programs[program];
                ready.run_head(&self.model.kernels, ids.len(), block.len())?;
            }
            let start = number * max_rows * self.vocab;
            let logits = &mut self.logits[start..start + block.len() * self.vocab];
            self.memory.read(
                self.programs[program].logits,
                bytemuck::cast_slice_mut(logits),
            )?;
        }
        Ok(&self.logits[..count])
    }

    /// Rows that a step for `tokens` tokens computes together at most.
    pub(crate) fn max_rows(&self, tokens: usize) -> usize {
        let program = self.program(tokens);
        program.map_or(0, |i| self.programs[i].max_rows.min(tokens))
    }

    /// Runs a program one launch at a time, for rows that are computed together; `observe` sees the
    /// arena after each.
    pub(crate) fn trace(
        &mut self,
        program: usize,
        ids: &[u32],
        rows: &[u32],
        position: usize,
        observe: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), Error> {
        self.model.device.bind()?;
        let ready = &self.programs[program];
        if rows.len() > ready.max_rows {
            let (rows, most) = (rows.len(), ready.max_rows);
            let reason = format!("{rows} rows in a step that is traced, the most is {most}");
            return Err(Error::Step { reason });
        }
        self.write_inputs(ids, rows, position)?;
        let ready = &self.programs[program];
        let mut arena = vec![0; ready.arena_bytes];
        for (step, launch) in ready.launches.iter().enumerate() {
            launch.run(&self.model.kernels, ids.len(), rows.len())?;
            self.memory.read(self.places.arena, &mut arena)?;
            observe(program, step, &arena);
        }
        Ok(())
    }
}

impl Drop for CudaSession {
    fn drop(&mut self) {
        let _ = self
            .model
            .device
            .bind()
            .and_then(|()| self.model.device.synchronize());
    }
}
