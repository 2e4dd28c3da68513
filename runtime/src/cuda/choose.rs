//! Steps that choose the next token on the device and go on with it, so that the host is not asked
//! between tokens.

use super::graph::Graph;
use super::launch::ReadyLaunch;
use super::places::SAMPLING;
use super::session::CudaSession;
use crate::error::Error;
use crate::sampler::{Sampler, SamplerOptions};

/// How a token is chosen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// The most probable one.
    Best,
    /// One that is drawn.
    Drawn,
}

/// The launches that choose, and the decode step recorded with each.
#[derive(Default)]
pub(super) struct Choosers {
    best: Option<Chooser>,
    drawn: Option<Chooser>,
    /// Tokens that the ring holds.
    ring: usize,
}

struct Chooser {
    // Dropped first: it points into the session.
    step: Option<Graph>,
    launch: ReadyLaunch,
}

impl Choosers {
    /// From the two launches and the number of tokens that the ring holds.
    pub fn new(next: ReadyLaunch, sample: ReadyLaunch, ring: usize) -> Choosers {
        let chooser = |launch| Some(Chooser { step: None, launch });
        Choosers {
            best: chooser(next),
            drawn: chooser(sample),
            ring,
        }
    }

    fn of(&mut self, choice: Choice) -> Option<&mut Chooser> {
        match choice {
            Choice::Best => self.best.as_mut(),
            Choice::Drawn => self.drawn.as_mut(),
        }
    }
}

impl CudaSession {
    /// Records the decode step together with the choice of the next token, once.
    pub(super) fn record_choice(&mut self, choice: Choice) -> Result<(), Error> {
        let mut choosers = std::mem::take(&mut self.choosers);
        let recorded = choosers.of(choice).map_or(Ok(()), |chooser| {
            let (Some(decode), None) = (self.decode(), &chooser.step) else {
                return Ok(());
            };
            let model = self.model();
            let step = Graph::record(&model.device, || {
                decode.run(&model.kernels, 1, 1)?;
                chooser.launch.run(&model.kernels, 1, 1)
            })?;
            chooser.step = Some(step);
            Ok(())
        });
        self.choosers = choosers;
        recorded
    }

    /// Reads `id` and then, step by step, the most probable token: `count` steps without the host,
    /// at most as many as the ring holds. Gives the chosen tokens.
    pub(crate) fn greedy(
        &mut self,
        id: u32,
        count: usize,
        position: usize,
    ) -> Result<Vec<u32>, Error> {
        self.continue_with(Choice::Best, id, count, position)
    }

    /// As [`CudaSession::greedy`], but tokens are drawn as `sampler` would draw its next ones.
    pub(crate) fn sample(
        &mut self,
        id: u32,
        count: usize,
        position: usize,
        sampler: &Sampler,
    ) -> Result<Vec<u32>, Error> {
        self.model().device.bind()?;
        self.record_choice(Choice::Drawn)?;
        self.write_sampling(sampler)?;
        self.continue_with(Choice::Drawn, id, count, position)
    }

    /// Draws `count` tokens from the same logits, at most as many as the ring holds.
    pub(crate) fn sample_logits(
        &mut self,
        logits: &[f32],
        count: usize,
        sampler: &Sampler,
    ) -> Result<Vec<u32>, Error> {
        self.model().device.bind()?;
        self.write_sampling(sampler)?;
        self.write_inputs(&[0], &[0], 0)?;
        let count = count.min(self.choosers.ring);
        let (Some(decode), Some(chooser)) = (self.decode(), &self.choosers.drawn) else {
            return Err(missing());
        };
        self.memory
            .write(decode.logits, bytemuck::cast_slice(logits))?;
        let kernels = &self.model().kernels;
        (0..count).try_for_each(|_| chooser.launch.run(kernels, 1, 1))?;
        self.chosen(count, 0)
    }

    fn continue_with(
        &mut self,
        choice: Choice,
        id: u32,
        count: usize,
        position: usize,
    ) -> Result<Vec<u32>, Error> {
        self.model().device.bind()?;
        self.write_inputs(&[id], &[0], position)?;
        let count = count.min(self.choosers.ring);
        let step = self.choosers.of(choice).and_then(|c| c.step.as_ref());
        let step = step.ok_or_else(missing)?;
        (0..count).try_for_each(|_| step.run())?;
        self.chosen(count, position)
    }

    /// The `count` tokens chosen from `position` on.
    fn chosen(&self, count: usize, position: usize) -> Result<Vec<u32>, Error> {
        let ring = self.choosers.ring;
        let mut tokens = vec![0u32; ring];
        self.memory
            .read(self.places.ring, bytemuck::cast_slice_mut(&mut tokens))?;
        let chosen: Vec<u32> = (0..count).map(|n| tokens[(position + n) % ring]).collect();
        match chosen.iter().find(|id| **id == u32::MAX) {
            // What the device says where the processor's sampler says which logit.
            Some(_) => Err(Error::Logits {
                reason: "a logit is NaN or +inf, or every logit is -inf".to_owned(),
            }),
            None => Ok(chosen),
        }
    }

    /// Tells the device how to draw, from which draw on, and which tokens the sequence has.
    fn write_sampling(&self, sampler: &Sampler) -> Result<(), Error> {
        let words = sampling_words(sampler.options(), sampler.draws());
        self.memory.write(SAMPLING, bytemuck::cast_slice(&words))?;
        if sampler.options().repetition_penalty == 1.0 {
            return Ok(());
        }
        let seen: Vec<u8> = sampler.seen().iter().map(|s| u8::from(*s)).collect();
        self.memory.write(self.places.seen, &seen)
    }
}

/// The content of [`rabitc_rbx::gpu::GpuArg::Sampling`].
fn sampling_words(options: &SamplerOptions, draws: u64) -> [u32; 10] {
    let halves = |n: u64| [n as u32, (n >> 32) as u32];
    let [seed, draws] = [halves(options.seed), halves(draws)];
    [
        options.temperature.to_bits(),
        options.top_p.to_bits(),
        options.min_p.to_bits(),
        options.repetition_penalty.to_bits(),
        // No vocabulary has as many tokens.
        u32::try_from(options.top_k).unwrap_or(u32::MAX),
        seed[0],
        seed[1],
        0,
        draws[0],
        draws[1],
    ]
}

fn missing() -> Error {
    Error::Step {
        reason: "the artifact has no program for one token".into(),
    }
}
