//! The execution plan: what runs in which order on which memory.

use serde::{Deserialize, Serialize};

/// The steps of one forward pass over up to `max_tokens` tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// `decode` or `prefill`.
    pub name: String,
    /// Tokens that one run takes at most.
    pub max_tokens: usize,
    /// Bytes of the arena that every [`Arg::Arena`] points into.
    pub arena_bytes: usize,
    /// Where the logits `f32[R, vocab]` are in the arena once the program has run.
    pub logits: usize,
    /// The steps. Steps of one phase do not depend on each other.
    pub steps: Vec<Step>,
}

/// One launch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The graph node that it computes (a part of).
    pub node: String,
    /// Steps with equal numbers may run at the same time; numbers never fall.
    pub phase: usize,
    /// What is run.
    pub work: Work,
}

/// What a step runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A native kernel.
    Kernel {
        /// Index into the manifest's kernel table.
        kernel: usize,
        /// Its pointer arguments.
        args: Vec<Arg>,
        /// Its scalar arguments.
        scalars: Vec<Scalar>,
        /// How many work items there are.
        items: Items,
    },
    /// Something the runtime does itself.
    Host(Host),
}

/// Work that the runtime does itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Host {
    /// Per token cos (first half) and sin (second half) of position · inv_freq.
    RopeTable {
        /// One frequency a pair of channels, radians a position.
        inv_freq: Vec<f32>,
        /// Factor on cos and sin.
        attention_factor: f32,
        /// Where the table `f32[T, 2·len(inv_freq)]` goes.
        out: Arg,
    },
}

/// A pointer argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arg {
    /// A byte offset into the program's arena.
    Arena(usize),
    /// A tensor of the artifact.
    Weight(String),
    /// The keys of a layer.
    Keys(usize),
    /// The values of a layer.
    Values(usize),
    /// Token ids, `i32[T]`.
    Ids,
    /// Row indices, `i32[R]`.
    Rows,
}

/// A scalar argument.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scalar {
    /// A constant.
    Const(i64),
    /// T, the tokens of this run.
    Tokens,
    /// R, the rows whose logits are asked for.
    Rows,
    /// Position of the first token of this run.
    Start,
    /// Positions the key/value cache has room for; a multiple of 16.
    Capacity,
}

/// `constant + per_token · T + per_row · R` work items.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Items {
    /// Independent of T and R.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub constant: u64,
    /// For every token.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_token: u64,
    /// For every row.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub per_row: u64,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Items {
    /// The number of items for `tokens` tokens and `rows` rows; saturating.
    pub fn count(&self, tokens: usize, rows: usize) -> u64 {
        let per_token = self.per_token.saturating_mul(tokens as u64);
        let per_row = self.per_row.saturating_mul(rows as u64);
        self.constant
            .saturating_add(per_token)
            .saturating_add(per_row)
    }
}
