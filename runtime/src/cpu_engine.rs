//! One sequence on the processor: a key/value cache, an arena, and the programs that run on them.

use std::sync::Arc;

use crate::aligned::AlignedBytes;
use crate::error::Error;
use crate::executor::{Executor, Extent, Memory};
use crate::kv_cache::{KvCache, LayerShape};
use crate::model::Model;
use crate::pool::Pool;
use crate::step_clock::StepClock;

/// A sequence on the processor.
pub(crate) struct CpuEngine {
    // Dropped first: it points into everything below and into the model, which the session keeps.
    programs: Vec<ReadyProgram>,
    arena: AlignedBytes,
    ids: AlignedBytes,
    rows: AlignedBytes,
    cache: KvCache,
    pool: Arc<Pool>,
    vocab: usize,
}

struct ReadyProgram {
    executor: Executor,
    max_tokens: usize,
    logits: usize,
}

impl CpuEngine {
    /// Memory for `context` positions, which the caller has checked.
    pub fn new(model: &Model, pool: Arc<Pool>, context: usize) -> Result<CpuEngine, Error> {
        let manifest = model.manifest();
        let shape = LayerShape {
            n_kv_heads: manifest.model.n_kv_heads,
            head_dim: manifest.model.head_dim,
        };
        let programs = &manifest.programs;
        let arena_bytes = programs.iter().map(|p| p.arena_bytes).max().unwrap_or(0);
        let most = programs.iter().map(|p| p.max_tokens).max().unwrap_or(0);
        if most == 0 {
            let reason = "has no program".to_string();
            return Err(Error::Plan { reason });
        }
        let mut arena = AlignedBytes::zeroed(arena_bytes, "the arena")?;
        let mut ids = AlignedBytes::zeroed(most.saturating_mul(4), "token ids")?;
        let mut rows = AlignedBytes::zeroed(most.saturating_mul(4), "row indices")?;
        let mut cache = KvCache::new(&vec![shape; manifest.model.n_layers], context)?;
        let mut memory = Memory {
            model,
            arena: arena.as_mut_ptr(),
            ids: ids.as_mut_ptr(),
            rows: rows.as_mut_ptr(),
            cache: &mut cache,
        };
        let programs = programs
            .iter()
            .map(|p| {
                Ok(ReadyProgram {
                    executor: Executor::new(p, &mut memory)?,
                    max_tokens: p.max_tokens,
                    logits: p.logits,
                })
            })
            .collect::<Result<_, Error>>()?;
        Ok(CpuEngine {
            vocab: manifest.model.vocab_size,
            programs,
            arena,
            ids,
            rows,
            cache,
            pool,
        })
    }

    /// Bytes of the key/value cache.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// Tokens that one step takes at most.
    pub fn max_tokens(&self) -> usize {
        self.programs
            .iter()
            .map(|p| p.max_tokens)
            .max()
            .unwrap_or(0)
    }

    /// The program for so many tokens.
    pub fn program(&self, tokens: usize) -> Option<usize> {
        let fits = self
            .programs
            .iter()
            .enumerate()
            .filter(|(_, p)| p.max_tokens >= tokens);
        fits.min_by_key(|(_, p)| p.max_tokens).map(|(i, _)| i)
    }

    /// Runs a program on checked ids and rows and gives the logits of the rows.
    pub fn step(
        &mut self,
        program: usize,
        ids: &[u32],
        rows: &[u32],
        position: usize,
    ) -> Result<&[f32], Error> {
        let extent = self.prepare(ids, rows, position);
        let program = &mut self.programs[program];
        let all = 0..program.executor.len();
        program.executor.run(&self.pool, extent, all, None)?;
        let first = program.logits / 4;
        Ok(&self.arena.as_f32()[first..][..rows.len() * self.vocab])
    }

    /// The same, with a clock.
    pub fn time(
        &mut self,
        program: usize,
        ids: &[u32],
        rows: &[u32],
        position: usize,
        clock: &StepClock,
    ) -> Result<(), Error> {
        let extent = self.prepare(ids, rows, position);
        let executor = &mut self.programs[program].executor;
        let all = 0..executor.len();
        executor.run(&self.pool, extent, all, Some(clock))
    }

    /// The same, one launch at a time.
    pub fn trace(
        &mut self,
        program: usize,
        ids: &[u32],
        rows: &[u32],
        position: usize,
        observe: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), Error> {
        let extent = self.prepare(ids, rows, position);
        for step in 0..self.programs[program].executor.len() {
            let executor = &mut self.programs[program].executor;
            executor.run(&self.pool, extent, step..step + 1, None)?;
            observe(program, step, self.arena.as_slice());
        }
        Ok(())
    }

    /// Puts the tokens where kernels read them.
    fn prepare(&mut self, ids: &[u32], rows: &[u32], position: usize) -> Extent {
        fill(&mut self.ids, ids);
        fill(&mut self.rows, rows);
        Extent {
            tokens: ids.len(),
            rows: rows.len(),
            start: position,
            capacity: self.cache.capacity(),
        }
    }
}

/// Copies ids or row numbers, all below 2³¹, as i32.
fn fill(buffer: &mut AlignedBytes, values: &[u32]) {
    for (to, value) in buffer.as_mut_slice().chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}
