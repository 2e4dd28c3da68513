//! The verbs, one file each: `Args` (the command line) and `run`.

pub mod bench;
pub mod compile;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod inspect;
pub mod logits;
pub mod report;
pub mod run;
pub mod synth;
pub mod train;
pub mod tune;
pub mod verify;
