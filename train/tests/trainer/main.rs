//! Whole runs of training on tiny models: what they reach, what they leave, and what stops them.

mod failing;
mod folders;
mod memory;
mod noise;
mod reports;
mod runs;
mod stops;
mod stored;

use std::path::{Path, PathBuf};

use rabitc_frontend::{BufferPrecision, SynthOptions, synth};
use rabitc_ir::DType;
use rabitc_train::corpus::Corpus;
use rabitc_train::cpu::CpuEngine;
use rabitc_train::engine::{Engine, EngineError};
use rabitc_train::job::{Cadence, Engines, Job, Observer};
use rabitc_train::metrics::{self, Record, StepRecord, ValidationRecord};
use rabitc_train::recipe::{
    HiddenNorm, Initial, Loss, Method, Noise, NoiseSource, Optimizer, Rates, Recipe, Start,
    WeightType,
};
use rabitc_train::teacher::Teacher;
use rabitc_train::validation::Held;
use rabitc_train::{Outcome, TrainError};

/// Channels, heads and tokens that are no multiples of any vector.
const CONFIG: &str = r#"{
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 20,
    "intermediate_size": 27, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 10, "vocab_size": 23, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "hidden_act": "silu", "initializer_range": 0.3,
    "tie_word_embeddings": true
}"#;

/// A folder with a random model, which goes with the value.
pub(crate) struct Model {
    dir: tempfile::TempDir,
}

impl Model {
    /// The model of this seed.
    pub(crate) fn new(seed: u64) -> Model {
        Model::of(CONFIG, seed)
    }

    /// A model of a configuration.
    pub(crate) fn of(config: &str, seed: u64) -> Model {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config-of-model.json");
        std::fs::write(&path, config).unwrap();
        let options = SynthOptions {
            seed,
            ..SynthOptions::default()
        };
        synth(&path, &dir.path().join("model"), &options, &mut |_| {}).unwrap();
        Model { dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    pub(crate) fn teacher(&self) -> Teacher {
        Teacher::open(&self.path(), BufferPrecision::Auto).unwrap()
    }
}

/// Text of which each token says much about the next.
pub(crate) fn corpus(tokens: usize, seed: u32) -> Corpus {
    let mut state = seed;
    let mut token = 0;
    let ids = (0..tokens).map(|_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        token = (token * 5 + 3 + i32::from(state >> 24 > 200)) % 23;
        token
    });
    Corpus::of_tokens(vec![ids.collect()], vec![PathBuf::from("text")])
}

pub(crate) fn recipe() -> Recipe {
    Recipe {
        method: Method::Rabit,
        paths: 2,
        keep_dense: Vec::new(),
        initial: Initial {
            start: Start::Iterative,
            iters: 5,
            exponent: 0.75,
            tokens: 64,
        },
        steps: 12,
        batch: 3,
        seq_len: 9,
        accumulate: 1,
        optimizer: Optimizer {
            rates: Rates {
                shared: 5e-3,
                scales: 5e-3,
                rest: 5e-3,
            },
            warmup: 2,
            final_rate: 0.1,
            beta1: 0.9,
            beta2: 0.95,
            eps: 1e-8,
            decay: 0.01,
            clip: 1.0,
        },
        loss: Loss {
            hidden: 0.1,
            hidden_norm: HiddenNorm::Rows,
            text: 0.0,
            diversity: 0.0,
        },
        noise: Noise::default(),
        weights: WeightType::F32,
        checkpoint_activations: false,
        seed: 3,
    }
}

/// Engines on the CPU.
pub(crate) struct Cpu;

impl Engines for Cpu {
    fn engine(&self) -> Result<Box<dyn Engine>, EngineError> {
        Ok(Box::new(CpuEngine::new(Some(2))?))
    }

    fn storage(&self) -> DType {
        DType::F32
    }
}

/// Watches nothing.
pub(crate) struct Silent;

impl Observer for Silent {
    fn phase(&mut self, _: &str) {}
    fn step(&mut self, _: &StepRecord) {}
    fn validation(&mut self, _: &ValidationRecord) {}
}

/// A run and what it is given.
pub(crate) struct Setting {
    pub(crate) teacher: Teacher,
    pub(crate) student: Option<Teacher>,
    pub(crate) recipe: Recipe,
    pub(crate) corpus: Corpus,
    pub(crate) valid: Corpus,
    /// Tokens of a window of validation; none is done if `None`.
    pub(crate) window: Option<usize>,
    pub(crate) most: Option<usize>,
    pub(crate) save: u64,
}

impl Setting {
    pub(crate) fn new(model: &Model, recipe: Recipe) -> Setting {
        Setting {
            teacher: model.teacher(),
            student: None,
            recipe,
            corpus: corpus(400, 1),
            valid: corpus(120, 2),
            window: Some(16),
            most: None,
            save: 4,
        }
    }

    /// Runs in `dir`.
    pub(crate) fn run(
        &self,
        dir: &Path,
        resume: bool,
        engines: &dyn Engines,
    ) -> Result<Outcome, TrainError> {
        self.observed(dir, resume, engines, &mut Silent)
    }

    /// Runs in `dir`, watched.
    pub(crate) fn observed(
        &self,
        dir: &Path,
        resume: bool,
        engines: &dyn Engines,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, TrainError> {
        let job = Job {
            teacher: &self.teacher,
            student: self.student.as_ref(),
            recipe: &self.recipe,
            cadence: Cadence {
                validate: 5,
                save: self.save,
                diagnose: true,
            },
            corpus: &self.corpus,
            held: self.window.map(|window| Held {
                corpus: &self.valid,
                window,
                most: self.most,
            }),
            dir,
            resume,
            engines,
        };
        rabitc_train::run(&job, observer)
    }

    /// The message of a run that is refused.
    pub(crate) fn refused(&self, dir: &Path, resume: bool) -> String {
        let error = self.run(dir, resume, &Cpu).unwrap_err();
        error.to_string()
    }
}

/// What a run recorded, times aside.
pub(crate) fn records(dir: &Path) -> Vec<Record> {
    let mut records = metrics::read(dir).unwrap();
    for record in &mut records {
        if let Record::Step(step) = record {
            step.tokens_per_second = 0.0;
        }
    }
    records
}

/// The KL of each measurement on the validation text.
pub(crate) fn validations(dir: &Path) -> Vec<f64> {
    let records = records(dir).into_iter();
    let kl = records.filter_map(|record| match record {
        Record::Validation(v) => Some(v.kl),
        _ => None,
    });
    kl.collect()
}
