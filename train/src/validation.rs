//! How good a student is on text that it is not trained on.

use rabitc_ir::Graph;

use crate::corpus::{Batch, Corpus, Window};
use crate::engine::{Engine, EngineError, Program};
use crate::error::TrainError;
use crate::graphs;
use crate::metrics::ValidationRecord;
use crate::recipe::{Recipe, Stage};

/// The validation text, cut into windows that do not overlap; each token, the one after a window
/// included, is predicted from those before it in its window.
#[derive(Clone, Debug)]
pub struct Held<'a> {
    /// The text.
    pub corpus: &'a Corpus,
    /// Tokens of a window.
    pub window: usize,
    /// Most windows that are measured, at least 1; all if `None`.
    pub most: Option<usize>,
}

/// Measures on an engine that has student and teacher.
pub struct Validation<'a> {
    corpus: &'a Corpus,
    window: usize,
    /// Windows of each run of the program beside them.
    parts: Vec<(Program, Vec<Window>)>,
}

impl<'a> Validation<'a> {
    /// Takes the graphs into `engine`. A run has about as many tokens as one of training.
    ///
    /// # Errors
    /// A text without a single window, or what the engine refuses.
    pub fn new(
        engine: &mut dyn Engine,
        model: &Graph,
        recipe: &Recipe,
        stage: &Stage,
        held: &Held<'a>,
    ) -> Result<Validation<'a>, TrainError> {
        let mut windows = held.corpus.at_least(held.window, 1)?;
        windows.truncate(held.most.unwrap_or(usize::MAX));
        let student = graphs::student(model, recipe, stage, held.window)?;
        let graph = graphs::validation(&student, model, held.window)?;
        let tokens = recipe.batch * recipe.seq_len;
        let batch = (tokens / held.window).clamp(1, windows.len());
        let mut parts: Vec<(Program, Vec<Window>)> = Vec::new();
        for windows in windows.chunks(batch) {
            let same = parts.last().filter(|(_, w)| w.len() == windows.len());
            let program = match same {
                Some((program, _)) => *program,
                None => engine.program(&graph, windows.len() * held.window)?,
            };
            parts.push((program, windows.to_vec()));
        }
        Ok(Validation {
            corpus: held.corpus,
            window: held.window,
            parts,
        })
    }

    /// Measures after update `step`.
    pub fn run(&self, engine: &mut dyn Engine, step: u64) -> Result<ValidationRecord, TrainError> {
        let (mut sums, mut windows) = ([0.0f64; 3], 0usize);
        for (program, part) in &self.parts {
            let batch = Batch::new(self.corpus, part, self.window);
            let outputs = engine.run(*program, &batch.inputs())?;
            for (sum, name) in sums.iter_mut().zip(["kl", "nll", "teacher_nll"]) {
                let missing = || EngineError::new(format!("the engine gave no `{name}`"));
                let value = outputs.get(name).ok_or_else(missing)?.floats()[0];
                *sum += f64::from(value) * part.len() as f64;
            }
            windows += part.len();
        }
        let [kl, nll, teacher] = sums.map(|sum| sum / windows as f64);
        if let Some(value) = [kl, nll, teacher].into_iter().find(|x| !x.is_finite()) {
            return Err(TrainError::NotFinite {
                step,
                what: "validation loss",
                value,
                kept: "the checkpoint before it remains".into(),
            });
        }
        Ok(ValidationRecord {
            step,
            kl,
            perplexity: nll.exp(),
            teacher_perplexity: teacher.exp(),
            windows,
            window: self.window,
        })
    }
}
