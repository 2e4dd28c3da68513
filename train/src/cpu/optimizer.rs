//! Updates of weights and the norm of gradients, as launches.

use rabitc_codegen::kernels::Spec;
use rabitc_codegen::kernels::train::adamw::{self, AdamW, CONSTANTS, Constant};
use rabitc_codegen::kernels::train::sum_squares::{self, SumSquares};
use rabitc_ir::DType;

use super::program::{Base, Launch, Pointer, Work};
use super::store::{Store, Trained};
use crate::engine::{EngineError, Update};

/// The kernels of this module, by number.
pub fn specs() -> Vec<Box<dyn Spec>> {
    let adamw = |stochastic_bf16| Box::new(AdamW { stochastic_bf16 });
    vec![adamw(false), adamw(true), Box::new(SumSquares)]
}

/// Numbers of [`specs`].
const ADAMW: usize = 0;
const ADAMW_BF16: usize = 1;
const SUM_SQUARES: usize = 2;

fn at(base: Base, offset: usize) -> Pointer {
    Pointer { base, offset }
}

/// The launches of an update, and the numbers that they find at [`Base::Constants`].
pub fn update(store: &Store, update: &Update) -> Result<(Vec<Launch>, Vec<f32>), EngineError> {
    if update.step == 0 {
        return Err(EngineError::new("steps are counted from 1"));
    }
    let (mut launches, mut constants) = (Vec::new(), Vec::new());
    for (i, trained) in store.trained.iter().enumerate() {
        let n = store.weights[trained.weight].len();
        let (spec, mut scalars) = match trained.what.dtype {
            DType::BF16 => (ADAMW_BF16, vec![n as i64]),
            _ => (ADAMW, vec![n as i64]),
        };
        if spec == ADAMW_BF16 {
            scalars.push(i64::from(key(update, &trained.what.name)));
        }
        let pointers = vec![
            at(Base::Weight(trained.weight), 0),
            at(Base::Gradient(i), 0),
            at(Base::Moment(i, 0), 0),
            at(Base::Moment(i, 1), 0),
            at(Base::Constants, constants.len()),
        ];
        constants.extend(numbers(update, trained)?);
        launches.push(Launch {
            work: Work::Kernel {
                spec,
                pointers,
                scalars,
            },
            items: n.div_ceil(adamw::CHUNK),
            beside: true,
        });
    }
    Ok((launches, constants))
}

/// What the update of one weight computes with.
fn numbers(update: &Update, trained: &Trained) -> Result<[f32; CONSTANTS], EngineError> {
    let rate = update.learning_rates.get(trained.what.group);
    let rate = *rate.ok_or_else(|| {
        let (name, group) = (&trained.what.name, trained.what.group);
        EngineError::new(format!(
            "weight `{name}` is of group {group}, which has no learning rate"
        ))
    })?;
    let (rate, beta1, beta2) = (
        f64::from(rate),
        f64::from(update.beta1),
        f64::from(update.beta2),
    );
    let correction = |beta: f64| 1.0 - beta.powf(update.step as f64);
    let mut all = [0.0; CONSTANTS];
    for (which, number) in [
        (Constant::GradientFactor, f64::from(update.gradient_factor)),
        (Constant::Beta1, beta1),
        (Constant::OneMinusBeta1, 1.0 - beta1),
        (Constant::Beta2, beta2),
        (Constant::OneMinusBeta2, 1.0 - beta2),
        (Constant::Rate, rate / correction(beta1)),
        (Constant::RootCorrection, 1.0 / correction(beta2).sqrt()),
        (Constant::Eps, f64::from(update.eps)),
        (Constant::Keep, 1.0 - rate * f64::from(trained.what.decay)),
    ] {
        all[which as usize] = number as f32;
    }
    Ok(all)
}

/// What rounding in this step depends on: FNV-1a of seed, step and the weight's name.
fn key(update: &Update, name: &str) -> u32 {
    let numbers = [update.seed, update.step].map(u64::to_le_bytes);
    let bytes = numbers.as_flattened().iter().chain(name.as_bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    (hash >> 32) as u32 ^ hash as u32
}

/// The launches that sum the squares of all gradients, and how many sums there are, which lie in
/// the step's own memory one after the other.
pub fn squares(store: &Store) -> (Vec<Launch>, usize) {
    let (mut launches, mut sums) = (Vec::new(), 0);
    for (i, trained) in store.trained.iter().enumerate() {
        let n = store.weights[trained.weight].len();
        let items = n.div_ceil(sum_squares::CHUNK);
        let pointers = vec![at(Base::Gradient(i), 0), at(Base::Scratch, sums)];
        launches.push(Launch {
            work: Work::Kernel {
                spec: SUM_SQUARES,
                pointers,
                scalars: vec![n as i64],
            },
            items,
            beside: true,
        });
        sums += items;
    }
    (launches, sums)
}
