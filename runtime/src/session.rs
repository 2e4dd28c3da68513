//! One sequence: a key/value cache, an arena, and the programs that run on them.

use std::sync::Arc;

use crate::aligned::AlignedBytes;
use crate::error::Error;
use crate::executor::{Executor, Extent, Memory};
use crate::kv_cache::{KvCache, LayerShape};
use crate::model::Model;
use crate::pool::Pool;
use crate::step_clock::StepClock;

/// A sequence being read and continued by a model.
pub struct Session {
    // Dropped first: it points into everything below.
    programs: Vec<ReadyProgram>,
    arena: AlignedBytes,
    ids: AlignedBytes,
    rows: AlignedBytes,
    cache: KvCache,
    pool: Arc<Pool>,
    context: usize,
    position: usize,
    vocab: usize,
    model: Arc<Model>,
}

struct ReadyProgram {
    executor: Executor,
    max_tokens: usize,
    logits: usize,
}

impl Session {
    /// A session with room for `context` positions.
    ///
    /// # Errors
    /// A context beyond the model's, or memory that the system does not grant.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, context: usize) -> Result<Session, Error> {
        let manifest = model.manifest();
        let limit = manifest.model.context_length;
        if context == 0 || context > limit {
            return Err(Error::Context { context, limit });
        }
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
            model: &model,
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
        Ok(Session {
            vocab: manifest.model.vocab_size,
            programs,
            arena,
            ids,
            rows,
            cache,
            pool,
            context,
            position: 0,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Positions read so far.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions there is room for.
    pub fn context(&self) -> usize {
        self.context
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

    /// Forgets everything after `position`.
    pub fn rewind(&mut self, position: usize) {
        self.position = self.position.min(position);
    }

    /// Reads up to [`Session::max_tokens`] tokens and gives the logits `[len(rows), vocab]` of
    /// the tokens whose indices are in `rows` (ascending or not, repetition allowed, at most as
    /// many as there are tokens).
    ///
    /// # Errors
    /// Ids outside the vocabulary, too many tokens, or a full context; nothing is read then.
    pub fn step(&mut self, ids: &[u32], rows: &[u32]) -> Result<&[f32], Error> {
        let (chosen, extent) = self.prepare(ids, rows)?;
        let program = &mut self.programs[chosen];
        let all = 0..program.executor.len();
        program.executor.run(&self.pool, extent, all, None)?;
        self.position += ids.len();
        let first = program.logits / 4;
        Ok(&self.arena.as_f32()[first..][..rows.len() * self.vocab])
    }

    /// Reads tokens as [`Session::step`] does, one launch at a time: `observe` sees the number of
    /// the program, the number of the step and the arena after every step. For tools that check
    /// or show what kernels compute.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn trace(
        &mut self,
        ids: &[u32],
        rows: &[u32],
        observe: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), Error> {
        let (chosen, extent) = self.prepare(ids, rows)?;
        for step in 0..self.programs[chosen].executor.len() {
            let executor = &mut self.programs[chosen].executor;
            executor.run(&self.pool, extent, step..step + 1, None)?;
            observe(chosen, step, self.arena.as_slice());
        }
        self.position += ids.len();
        Ok(())
    }

    /// Reads tokens as [`Session::step`] does and adds to `clock` how long each step of the
    /// program took; gives the number of the program.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn time(&mut self, ids: &[u32], rows: &[u32], clock: &StepClock) -> Result<usize, Error> {
        let (chosen, extent) = self.prepare(ids, rows)?;
        let executor = &mut self.programs[chosen].executor;
        let all = 0..executor.len();
        executor.run(&self.pool, extent, all, Some(clock))?;
        self.position += ids.len();
        Ok(chosen)
    }

    /// Checks the tokens, puts them where kernels read them, and picks the program.
    fn prepare(&mut self, ids: &[u32], rows: &[u32]) -> Result<(usize, Extent), Error> {
        self.check(ids, rows)?;
        let chosen = self
            .programs
            .iter()
            .enumerate()
            .filter(|(_, p)| p.max_tokens >= ids.len())
            .min_by_key(|(_, p)| p.max_tokens)
            .map(|(i, _)| i);
        let Some(chosen) = chosen else {
            return Err(Error::Step {
                reason: format!(
                    "{} tokens at once, the most is {}",
                    ids.len(),
                    self.max_tokens()
                ),
            });
        };
        fill(&mut self.ids, ids);
        fill(&mut self.rows, rows);
        let extent = Extent {
            tokens: ids.len(),
            rows: rows.len(),
            start: self.position,
            capacity: self.cache.capacity(),
        };
        Ok((chosen, extent))
    }

    /// Reads any number of tokens and gives the logits of the last one, `[vocab]`. `progress` is
    /// called with the tokens of each step.
    ///
    /// # Errors
    /// As [`Session::step`]; also when there are no tokens.
    pub fn read(&mut self, ids: &[u32], progress: &mut dyn FnMut(usize)) -> Result<&[f32], Error> {
        let vocab = self.vocab;
        let Some(last) = ids.len().checked_sub(1) else {
            let reason = "no tokens to read".to_string();
            return Err(Error::Step { reason });
        };
        self.check_room(ids.len())?;
        let block = self.max_tokens();
        let split = last / block * block;
        for chunk in ids[..split].chunks(block) {
            self.step(chunk, &[])?;
            progress(chunk.len());
        }
        let rest = &ids[split..];
        progress(rest.len());
        let logits = self.step(rest, &[rest.len() as u32 - 1])?;
        Ok(&logits[..vocab])
    }

    fn check_room(&self, tokens: usize) -> Result<(), Error> {
        if tokens > self.context - self.position {
            return Err(Error::ContextFull {
                position: self.position,
                tokens,
                context: self.context,
            });
        }
        Ok(())
    }

    fn check(&self, ids: &[u32], rows: &[u32]) -> Result<(), Error> {
        let fail = |reason: String| Err(Error::Step { reason });
        if ids.is_empty() || rows.len() > ids.len() {
            return fail(format!("{} tokens, {} rows", ids.len(), rows.len()));
        }
        if let Some(&id) = ids.iter().find(|id| **id as usize >= self.vocab) {
            let vocab = self.vocab;
            return Err(Error::TokenOutOfRange { id, vocab });
        }
        if let Some(row) = rows.iter().find(|r| **r as usize >= ids.len()) {
            return fail(format!("row {row} of {} tokens", ids.len()));
        }
        self.check_room(ids.len())
    }
}

/// Copies ids or row numbers, all below 2³¹, as i32.
fn fill(buffer: &mut AlignedBytes, values: &[u32]) {
    for (to, value) in buffer.as_mut_slice().chunks_exact_mut(4).zip(values) {
        to.copy_from_slice(&value.to_le_bytes());
    }
}
