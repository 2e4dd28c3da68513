//! Where things are in the memory of a session.

use rabitc_rbx::gpu::{GpuArg, GpuProgram, RopeTable};
use rabitc_rbx::{GpuTarget, Manifest};

/// The state of a step, for [`GpuArg::State`].
pub(super) const STATE: usize = 0;
/// Bytes set aside for each of the small things that the host writes.
const SMALL: usize = 64;
/// Sixteen bytes for measurements.
pub(super) const SCRATCH: usize = STATE + SMALL;
/// How tokens are drawn, for [`GpuArg::Sampling`].
pub(super) const SAMPLING: usize = SCRATCH + SMALL;

/// Byte offsets in the session's memory.
pub(super) struct Places {
    pub ids: usize,
    pub rows: usize,
    pub ring: usize,
    pub seen: usize,
    pub arena: usize,
    pub ropes: Vec<usize>,
    pub caches: usize,
    /// Bytes of the keys of a layer; as many values follow.
    pub cache_bytes: usize,
    pub end: usize,
}

/// The programs that a session of so many positions can use: no more than one takes them all.
pub(super) fn needed(target: &GpuTarget, capacity: usize) -> &[GpuProgram] {
    let enough = target
        .programs
        .iter()
        .position(|p| p.max_tokens >= capacity);
    &target.programs[..enough.map_or(target.programs.len(), |i| i + 1)]
}

impl Places {
    /// `None` if the sizes overflow.
    pub fn new(manifest: &Manifest, target: &GpuTarget, capacity: usize) -> Option<Places> {
        let programs = || needed(target, capacity).iter();
        let most = programs().map(|p| p.max_tokens).max()?;
        let arena = programs().map(|p| p.arena_bytes).max()?;
        let mut end = 0usize;
        let mut reserve = |bytes: usize| {
            let start = end;
            end = end.checked_add(bytes.checked_next_multiple_of(256)?)?;
            Some(start)
        };
        reserve(SAMPLING + SMALL)?;
        let ids = reserve(most.checked_mul(4)?)?;
        let rows = reserve(most.checked_mul(4)?)?;
        let ring = reserve(target.ring.checked_mul(4)?)?;
        let seen = reserve(manifest.model.vocab_size)?;
        let arena = reserve(arena)?;
        let tables = target.rope_tables.iter();
        let ropes =
            tables.map(|t| reserve(t.inv_freq.len().checked_mul(8)?.checked_mul(capacity)?));
        let ropes = ropes.collect::<Option<Vec<_>>>()?;
        let model = &manifest.model;
        let row = model.head_dim.checked_next_multiple_of(8)?.checked_mul(2)?;
        let cache_bytes = model.n_kv_heads.checked_mul(capacity)?.checked_mul(row)?;
        let caches = reserve(cache_bytes.checked_mul(2)?.checked_mul(model.n_layers)?)?;
        Some(Places {
            ids,
            rows,
            ring,
            seen,
            arena,
            ropes,
            caches,
            cache_bytes,
            end,
        })
    }

    /// The offset of an argument; `None` for weights, and where there is no such thing.
    pub fn offset(&self, arg: &GpuArg) -> Option<usize> {
        let cache = |n: usize| {
            let start = self.cache_bytes.checked_mul(n)?.checked_add(self.caches)?;
            (start + self.cache_bytes <= self.end).then_some(start)
        };
        match arg {
            GpuArg::Arena(offset) => Some(self.arena + offset),
            GpuArg::Keys(layer) => cache(layer.checked_mul(2)?),
            GpuArg::Values(layer) => cache(layer.checked_mul(2)?.checked_add(1)?),
            GpuArg::Rope(number) => self.ropes.get(*number).copied(),
            GpuArg::Ids => Some(self.ids),
            GpuArg::Rows => Some(self.rows),
            GpuArg::Ring => Some(self.ring),
            GpuArg::State => Some(STATE),
            GpuArg::Seen => Some(self.seen),
            GpuArg::Sampling => Some(SAMPLING),
            GpuArg::Weight(_) | GpuArg::Derived(_) => None,
        }
    }
}

/// cos and sin of every position, as the host computes them for CPU programs.
pub(super) fn rope_bytes(table: &RopeTable, positions: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(table.inv_freq.len() * 8 * positions);
    for position in 0..positions {
        let angles = table.inv_freq.iter().map(|f| position as f32 * f);
        let cos = angles.clone().map(|a| a.cos() * table.attention_factor);
        let sin = angles.map(|a| a.sin() * table.attention_factor);
        bytes.extend(cos.chain(sin).flat_map(f32::to_le_bytes));
    }
    bytes
}
