//! One sequence that a model reads and continues, wherever the model runs.

mod device;

use std::sync::Arc;

use crate::cpu_engine::CpuEngine;
#[cfg(feature = "cuda")]
use crate::cuda::session::CudaSession;
use crate::error::Error;
use crate::model::Model;
use crate::pool::Pool;
use crate::step_clock::StepClock;

/// A sequence being read and continued by a model.
pub struct Session {
    // Dropped first: it points into the model.
    engine: Engine,
    context: usize,
    position: usize,
    vocab: usize,
    model: Arc<Model>,
}

enum Engine {
    Cpu(Box<CpuEngine>),
    #[cfg(feature = "cuda")]
    Cuda(Box<CudaSession>),
}

impl Session {
    /// A session with room for `context` positions, on the device of the model. On a GPU, the
    /// pool's threads are not used.
    ///
    /// # Errors
    /// A context beyond the model's, or memory that the system does not grant.
    pub fn new(model: Arc<Model>, pool: Arc<Pool>, context: usize) -> Result<Session, Error> {
        let manifest = model.manifest();
        let limit = manifest.model.context_length;
        if context == 0 || context > limit {
            return Err(Error::Context { context, limit });
        }
        let engine = Engine::new(&model, pool, context)?;
        Ok(Session {
            vocab: manifest.model.vocab_size,
            engine,
            context,
            position: 0,
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Whether the model runs on a GPU.
    pub fn is_on_gpu(&self) -> bool {
        !matches!(self.engine, Engine::Cpu(_))
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
        match &self.engine {
            Engine::Cpu(engine) => engine.cache_bytes(),
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.cache_bytes(),
        }
    }

    /// Tokens that one step takes at most.
    pub fn max_tokens(&self) -> usize {
        match &self.engine {
            Engine::Cpu(engine) => engine.max_tokens(),
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.max_tokens(),
        }
    }

    /// Rows that [`Session::trace`] takes of `tokens` tokens at most.
    pub fn max_rows(&self, tokens: usize) -> usize {
        match &self.engine {
            Engine::Cpu(_) => tokens,
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.max_rows(tokens),
        }
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
        let program = self.program(ids, rows)?;
        let position = self.position;
        let logits = match &mut self.engine {
            Engine::Cpu(engine) => engine.step(program, ids, rows, position)?,
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.step(program, ids, rows, position)?,
        };
        self.position += ids.len();
        Ok(logits)
    }

    /// Reads tokens as [`Session::step`] does, one launch at a time: `observe` sees the number of
    /// the program, the number of the step and the arena after every step. For tools that check
    /// or show what kernels compute.
    ///
    /// # Errors
    /// As [`Session::step`], and more rows than [`Session::max_rows`].
    pub fn trace(
        &mut self,
        ids: &[u32],
        rows: &[u32],
        observe: &mut dyn FnMut(usize, usize, &[u8]),
    ) -> Result<(), Error> {
        let program = self.program(ids, rows)?;
        let position = self.position;
        match &mut self.engine {
            Engine::Cpu(engine) => engine.trace(program, ids, rows, position, observe)?,
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.trace(program, ids, rows, position, observe)?,
        }
        self.position += ids.len();
        Ok(())
    }

    /// Reads tokens as [`Session::step`] does and adds to `clock` how long each step of the
    /// program took; gives the number of the program. `None` on a GPU.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn time(
        &mut self,
        ids: &[u32],
        rows: &[u32],
        clock: &StepClock,
    ) -> Option<Result<usize, Error>> {
        let program = match self.program(ids, rows) {
            Ok(program) => program,
            Err(error) => return Some(Err(error)),
        };
        let position = self.position;
        let timed = match &mut self.engine {
            Engine::Cpu(engine) => engine.time(program, ids, rows, position, clock),
            #[cfg(feature = "cuda")]
            Engine::Cuda(_) => return None,
        };
        self.position += ids.len();
        Some(timed.map(|()| program))
    }

    /// Checks the tokens and picks the program.
    fn program(&self, ids: &[u32], rows: &[u32]) -> Result<usize, Error> {
        self.check(ids, rows)?;
        let chosen = match &self.engine {
            Engine::Cpu(engine) => engine.program(ids.len()),
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => session.program(ids.len()),
        };
        chosen.ok_or_else(|| Error::Step {
            reason: format!(
                "{} tokens at once, the most is {}",
                ids.len(),
                self.max_tokens()
            ),
        })
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

impl Engine {
    fn new(model: &Arc<Model>, pool: Arc<Pool>, context: usize) -> Result<Engine, Error> {
        #[cfg(feature = "cuda")]
        if let Some(cuda) = model.cuda() {
            let session = CudaSession::new(Arc::clone(cuda), model.manifest(), context)?;
            return Ok(Engine::Cuda(Box::new(session)));
        }
        Ok(Engine::Cpu(Box::new(CpuEngine::new(model, pool, context)?)))
    }
}
