//! What a session does on a GPU only: tokens chosen without the host, and measurements.

#[cfg(feature = "cuda")]
use super::Engine;
use super::Session;
use crate::error::Error;
use crate::sampler::Sampler;

impl Session {
    /// Reads `id`, then the most probable token after it, and so on, `count` tokens in all or as
    /// many as the device does at once, without the caller in between; gives the chosen tokens.
    /// `None` where the device has no such thing: [`Session::step`] does.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn greedy(&mut self, id: u32, count: usize) -> Option<Result<Vec<u32>, Error>> {
        match &mut self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Engine::Cuda(_) => Some(self.greedy_on_device(id, count)),
        }
    }

    #[cfg(feature = "cuda")]
    fn greedy_on_device(&mut self, id: u32, count: usize) -> Result<Vec<u32>, Error> {
        self.check(&[id], &[0])?;
        self.check_room(count)?;
        let position = self.position;
        let Engine::Cuda(session) = &mut self.engine else {
            return Ok(Vec::new());
        };
        let chosen = session.greedy(id, count, position)?;
        self.position += chosen.len();
        Ok(chosen)
    }

    /// As [`Session::greedy`], but each token is drawn as `sampler` would draw it. The sampler
    /// stays as it is: tell it of every token that is used with [`Sampler::accept`].
    ///
    /// # Errors
    /// As [`Session::step`], a sampler for another vocabulary, or logits that [`Sampler::sample`]
    /// refuses.
    pub fn sample(
        &mut self,
        id: u32,
        count: usize,
        sampler: &Sampler,
    ) -> Option<Result<Vec<u32>, Error>> {
        match &mut self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Engine::Cuda(_) => Some(self.sample_on_device(id, count, sampler)),
        }
    }

    #[cfg(feature = "cuda")]
    fn sample_on_device(
        &mut self,
        id: u32,
        count: usize,
        sampler: &Sampler,
    ) -> Result<Vec<u32>, Error> {
        self.check(&[id], &[0])?;
        self.check_room(count)?;
        self.check_vocab(sampler.seen().len())?;
        let position = self.position;
        let Engine::Cuda(session) = &mut self.engine else {
            return Ok(Vec::new());
        };
        let chosen = session.sample(id, count, position, sampler)?;
        self.position += chosen.len();
        Ok(chosen)
    }

    /// Draws up to `count` tokens on the device from the same logits, one after the other, as
    /// `sampler` would. Nothing is read, and the positions so far stay. For tools that check the
    /// device. `None` on the processor.
    ///
    /// # Errors
    /// As [`Session::sample`].
    pub fn sample_logits(
        &mut self,
        logits: &[f32],
        count: usize,
        sampler: &Sampler,
    ) -> Option<Result<Vec<u32>, Error>> {
        let checked = self.check_vocab(sampler.seen().len());
        let checked = checked.and_then(|()| self.check_vocab(logits.len()));
        match &mut self.engine {
            Engine::Cpu(_) => None,
            #[cfg(feature = "cuda")]
            Engine::Cuda(session) => {
                Some(checked.and_then(|()| session.sample_logits(logits, count, sampler)))
            }
        }
    }

    fn check_vocab(&self, found: usize) -> Result<(), Error> {
        match found == self.vocab {
            true => Ok(()),
            false => Err(Error::Logits {
                reason: format!("{found} logits for a vocabulary of {} tokens", self.vocab),
            }),
        }
    }

    /// Where the time of a step for `tokens` tokens goes, measured after the positions read so far.
    /// `None` on the processor.
    ///
    /// # Errors
    /// More tokens than a step takes or the context has room for, or a device that was lost.
    #[cfg(feature = "cuda")]
    pub fn profile(
        &mut self,
        tokens: usize,
    ) -> Option<Result<crate::cuda::profile::Profile, Error>> {
        let room = self.check_room(tokens);
        let Engine::Cuda(session) = &mut self.engine else {
            return None;
        };
        let target = self.model.cuda()?.target(self.model.manifest());
        Some(room.and_then(|()| session.profile(target, tokens, self.position)))
    }

    /// Bytes a second that the device reads from its memory, measured. `None` on the processor.
    ///
    /// # Errors
    /// A device that was lost.
    #[cfg(feature = "cuda")]
    pub fn device_bandwidth(&self) -> Option<Result<f64, Error>> {
        let Engine::Cuda(session) = &self.engine else {
            return None;
        };
        let target = self.model.cuda()?.target(self.model.manifest());
        Some(session.read_bandwidth(target))
    }
}
