//! The table of model families. A family is one file with a [`Spec`], and one line here.

use std::fmt;

use rabitc_ir::NodeId;

use crate::blocks::Builder;
use crate::config::{ConfigError, Keys, ModelConfig};
use crate::error::Error;
use crate::{gemma3, llama, mistral, qwen2, qwen3};

/// A group of architectures that one file lowers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// Llama 2 and 3.
    Llama,
    /// Mistral.
    Mistral,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Gemma 3, its text part.
    Gemma3,
}

impl Family {
    /// The name for manifests and messages.
    pub fn name(self) -> &'static str {
        spec(self).name
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What the configuration class of a family has where `config.json` has no key.
pub(crate) struct Defaults {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub n_layers: usize,
    pub n_heads: usize,
    /// `None`: as many as query heads.
    pub n_kv_heads: Option<usize>,
    /// `None`: what `hidden_size` gives each head.
    pub head_dim: Option<usize>,
    pub context_length: usize,
    pub activation_key: &'static str,
    pub activation: &'static str,
    pub tie_word_embeddings: bool,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
}

/// Everything that sets a family apart.
pub(crate) struct Spec {
    pub family: Family,
    pub name: &'static str,
    /// Names in `architectures`.
    pub architectures: &'static [&'static str],
    /// Names in `model_type`.
    pub model_types: &'static [&'static str],
    pub defaults: Defaults,
    /// Fills in what only this family's configuration has.
    pub configure: fn(&Keys<'_>, &mut ModelConfig) -> Result<(), ConfigError>,
    /// Adds layer number `layer` to the graph, from and to the residual stream.
    pub block: fn(&mut Builder<'_>, usize, NodeId) -> Result<NodeId, Error>,
    /// Tensors of checkpoints of this family that belong to no part that is lowered.
    pub ignore: fn(&str) -> bool,
}

/// The usual answer to [`Spec::ignore`].
pub(crate) fn ignore_nothing(_: &str) -> bool {
    false
}

static FAMILIES: [&Spec; 5] = [
    &llama::SPEC,
    &mistral::SPEC,
    &qwen2::SPEC,
    &qwen3::SPEC,
    &gemma3::SPEC,
];

/// The names of all supported architectures, as `config.json` has them.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES
        .iter()
        .flat_map(|s| s.architectures.iter().copied())
}

/// The table's line for `family`.
pub(crate) fn spec(family: Family) -> &'static Spec {
    match family {
        Family::Llama => &llama::SPEC,
        Family::Mistral => &mistral::SPEC,
        Family::Qwen2 => &qwen2::SPEC,
        Family::Qwen3 => &qwen3::SPEC,
        Family::Gemma3 => &gemma3::SPEC,
    }
}

/// The architecture a configuration names, and its family: by `architectures`, else by
/// `model_type`. Where both stand they must agree.
pub(crate) fn find(keys: &Keys<'_>) -> Result<(String, &'static Spec), ConfigError> {
    let architectures = keys.texts("architectures")?.unwrap_or_default();
    let by_type = match keys.text("model_type")? {
        Some(name) => Some(by_model_type(name)?),
        None => None,
    };
    let Some(&name) = architectures.first() else {
        let spec = by_type.ok_or_else(|| keys.error("architectures", "is missing"))?;
        return Ok((spec.architectures[0].to_string(), spec));
    };
    let found = FAMILIES.iter().find(|s| s.architectures.contains(&name));
    let spec = *found.ok_or_else(|| ConfigError::Unknown {
        what: "architecture",
        found: name.to_string(),
        known: self::architectures().collect::<Vec<_>>().join(", "),
    })?;
    match by_type {
        Some(other) if other.family != spec.family => {
            let reason = format!(
                "is of the family {}, but architectures names {name}",
                other.name
            );
            Err(keys.error("model_type", reason))
        }
        _ => Ok((name.to_string(), spec)),
    }
}

fn by_model_type(name: &str) -> Result<&'static Spec, ConfigError> {
    let found = FAMILIES.iter().find(|s| s.model_types.contains(&name));
    found.copied().ok_or_else(|| {
        let known = FAMILIES.iter().flat_map(|s| s.model_types.iter().copied());
        ConfigError::Unknown {
            what: "model_type",
            found: name.to_string(),
            known: known.collect::<Vec<_>>().join(", "),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_table_names_everything_once() {
        let mut seen = HashSet::new();
        for s in FAMILIES {
            assert_eq!(spec(s.family).name, s.name);
            assert!(!s.architectures.is_empty());
            for name in s.architectures.iter().chain(s.model_types) {
                assert!(seen.insert(name), "{name}");
            }
        }
    }
}
