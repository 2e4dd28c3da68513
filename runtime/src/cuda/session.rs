//! One sequence on a device: cache, arena, and the programs with every pointer resolved.

use std::sync::Arc;

use rabitc_rbx::Manifest;
use rabitc_rbx::gpu::{GpuArg, GpuProgram, GpuStep, RopeTable};

use super::driver::DeviceMemory;
use super::graph::Graph;
use super::launch::ReadyLaunch;
use super::model::CudaModel;
use crate::error::Error;

/// Places in the small buffer that the host writes before a step.
const STATE: usize = 0;
const STATE_BYTES: usize = 64;
/// Programs for more tokens than this are launched kernel by kernel.
const RECORDED: usize = 16;

/// A sequence on a device.
pub struct CudaSession {
    // Dropped first: they point into everything below.
    steps: Vec<Option<Graph>>,
    greedy: Option<Graph>,
    programs: Vec<ReadyProgram>,
    memory: DeviceMemory,
    places: Places,
    capacity: usize,
    ring: usize,
    vocab: usize,
    logits: Vec<f32>,
    inputs: Vec<u8>,
    model: Arc<CudaModel>,
}

struct ReadyProgram {
    launches: Vec<ReadyLaunch>,
    max_tokens: usize,
    logits: usize,
    arena_bytes: usize,
}

/// Byte offsets in the session's memory.
struct Places {
    ids: usize,
    rows: usize,
    ring: usize,
    arena: usize,
    ropes: Vec<usize>,
    caches: usize,
    /// Bytes of the keys of a layer; as many values follow.
    cache_bytes: usize,
    end: usize,
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
            greedy: None,
            programs: Vec::new(),
            memory,
            places,
            capacity,
            ring: target.ring,
            vocab: manifest.model.vocab_size,
            logits: Vec::new(),
            inputs: Vec::new(),
            model: Arc::clone(&model),
        };
        for program in &target.programs {
            let ready = session.ready(program)?;
            session.programs.push(ready);
        }
        let next = session.ready_launch(&target.next)?;
        session.record(&next)?;
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
        let p = &self.places;
        let cache = |n: usize| {
            let start = p.cache_bytes.checked_mul(n)?.checked_add(p.caches)?;
            (start + p.cache_bytes <= p.end).then_some(start)
        };
        let offset = match arg {
            GpuArg::Arena(offset) => p.arena + offset,
            GpuArg::Keys(layer) => cache(2 * layer)?,
            GpuArg::Values(layer) => cache(2 * layer + 1)?,
            GpuArg::Rope(number) => *p.ropes.get(*number)?,
            GpuArg::Ids => p.ids,
            GpuArg::Rows => p.rows,
            GpuArg::Ring => p.ring,
            GpuArg::State => STATE,
            GpuArg::Weight(_) | GpuArg::Derived(_) => return None,
        };
        Some(self.memory.at(offset))
    }

    /// Records the programs for few tokens, for as many tokens and rows as they take: kernels look
    /// up how many there are, and what is computed of others is never read. The one for a single
    /// token is recorded once more with the choice of the next.
    fn record(&mut self, next: &ReadyLaunch) -> Result<(), Error> {
        let (device, kernels) = (&self.model.device, &self.model.kernels);
        for program in &self.programs {
            let most = program.max_tokens;
            let all = || {
                let mut launches = program.launches.iter();
                launches.try_for_each(|l| l.run(kernels, most, most))
            };
            let recorded = (most <= RECORDED).then(|| Graph::record(device, all));
            self.steps.push(recorded.transpose()?);
            if most == 1 {
                let with_choice = || all().and_then(|()| next.run(kernels, 1, 1));
                self.greedy = Some(Graph::record(device, with_choice)?);
            }
        }
        Ok(())
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
        let at = self.memory.at(STATE + STATE_BYTES);
        (at, at + 8)
    }

    pub(super) fn write_scratch(&self, bytes: &[u8]) -> Result<(), Error> {
        self.memory.write(STATE + STATE_BYTES, bytes)
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
        self.write_inputs(ids, rows, position)?;
        let ready = &self.programs[program];
        match (&self.steps[program], rows) {
            (Some(graph), [_, ..]) => graph.run()?,
            _ => {
                let kernels = &self.model.kernels;
                ready
                    .launches
                    .iter()
                    .try_for_each(|l| l.run(kernels, ids.len(), rows.len()))?;
            }
        }
        let count = rows.len() * self.vocab;
        self.logits.resize(count.max(self.logits.len()), 0.0);
        let logits = &mut self.logits[..count];
        if count > 0 {
            self.memory
                .read(ready.logits, bytemuck::cast_slice_mut(logits))?;
        } else {
            self.model.device.synchronize()?;
        }
        Ok(logits)
    }

    /// Runs a program one launch at a time; `observe` sees the arena after each.
    pub(crate) fn trace(
        &mut self,
        program: usize,
        ids: &[u32],
        rows: &[u32],
        position: usize,
        observe: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), Error> {
        self.model.device.bind()?;
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

    /// Reads `id` and then, step by step, the most probable token: `count` steps without the host,
    /// at most as many as the ring holds. Gives the chosen tokens.
    pub(crate) fn greedy(
        &mut self,
        id: u32,
        count: usize,
        position: usize,
    ) -> Result<Vec<u32>, Error> {
        self.model.device.bind()?;
        let count = count.min(self.ring);
        let Some(graph) = self.greedy.take() else {
            return Err(Error::Step {
                reason: "the artifact has no program for one token".into(),
            });
        };
        let launched = self
            .write_inputs(&[id], &[0], position)
            .and_then(|()| (0..count).try_for_each(|_| graph.run()));
        self.greedy = Some(graph);
        launched?;
        let mut bytes = vec![0u8; self.ring * 4];
        self.memory.read(self.places.ring, &mut bytes)?;
        let chosen = |n: usize| {
            let at = (position + n) % self.ring * 4;
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        Ok((0..count).map(chosen).collect())
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

impl Places {
    /// `None` if the sizes overflow.
    fn new(manifest: &Manifest, target: &rabitc_rbx::GpuTarget, capacity: usize) -> Option<Places> {
        let most = target.programs.iter().map(|p| p.max_tokens).max()?;
        let arena = target.programs.iter().map(|p| p.arena_bytes).max()?;
        let mut end = 0usize;
        let mut reserve = |bytes: usize| {
            let start = end;
            end = end.checked_add(bytes.checked_next_multiple_of(256)?)?;
            Some(start)
        };
        reserve(STATE_BYTES)?;
        let ids = reserve(most.checked_mul(4)?)?;
        let rows = reserve(most.checked_mul(4)?)?;
        let ring = reserve(target.ring.checked_mul(4)?)?;
        let arena = reserve(arena)?;
        let tables = target.rope_tables.iter();
        let ropes =
            tables.map(|t| reserve(t.inv_freq.len().checked_mul(8)?.checked_mul(capacity)?));
        let ropes = ropes.collect::<Option<Vec<_>>>()?;
        let model = &manifest.model;
        let row = model.head_dim.checked_next_multiple_of(8)?.checked_mul(2)?;
        let cache_bytes = model.n_kv_heads.checked_mul(capacity)?.checked_mul(row)?;
        let caches = reserve(cache_bytes.checked_mul(2)?.checked_mul(model.n_layers)?)?;
        Some(Places {
            ids,
            rows,
            ring,
            arena,
            ropes,
            caches,
            cache_bytes,
            end,
        })
    }
}

/// cos and sin of every position, as the host computes them for CPU programs.
fn rope_bytes(table: &RopeTable, positions: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(table.inv_freq.len() * 8 * positions);
    for position in 0..positions {
        let angles = table.inv_freq.iter().map(|f| position as f32 * f);
        let cos = angles.clone().map(|a| a.cos() * table.attention_factor);
        let sin = angles.map(|a| a.sin() * table.attention_factor);
        bytes.extend(cos.chain(sin).flat_map(f32::to_le_bytes));
    }
    bytes
}
