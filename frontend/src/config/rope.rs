//! The rotary embedding's part of the configuration, in its newer form (`rope_parameters`, flat
//! or by layer type) and its older one (`rope_theta` beside `rope_scaling`).

use super::{ConfigError, Keys};

/// How the frequencies are stretched beyond the context the model was first trained for.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Every frequency divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by `factor`, high ones kept, a ramp between.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are low frequencies.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are high frequencies.
        high_freq_factor: f64,
        /// The context of the first training.
        original_context: usize,
    },
    /// YaRN (Peng et al., arXiv 2309.00071).
    Yarn {
        /// The divisor of the low frequencies.
        factor: f64,
        /// The context of the first training.
        original_context: usize,
        /// Factor on cos and sin.
        attention_factor: f64,
        /// Rotations over the original context above which a frequency is kept.
        beta_fast: f64,
        /// Rotations over the original context below which a frequency is divided.
        beta_slow: f64,
        /// Whether the ramp's ends are rounded outwards to whole channels.
        truncate: bool,
    },
}

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How they are stretched.
    pub scaling: RopeScaling,
}

/// The one rotary embedding of a model whose layers all use the same.
pub(crate) fn flat_rope(keys: &Keys<'_>, context: usize) -> Result<RopeConfig, ConfigError> {
    let older = keys.object("rope_scaling")?.filter(|k| !k.is_empty());
    let found = match older {
        Some(k) => Some(k),
        None => keys.object("rope_parameters")?,
    };
    if let Some(k) = &found
        && (k.has("full_attention") || k.has("sliding_attention"))
    {
        let what = "`rope_parameters` by layer type, for this family,";
        return Err(ConfigError::Unsupported(what.to_string()));
    }
    let theta = theta(keys, "rope_theta")?.unwrap_or(10_000.0);
    let outer = keys.size("original_max_position_embeddings")?;
    read(keys, found.as_ref(), theta, context, outer)
}

/// The rotary embeddings of Gemma 3: that of full attention, then that of sliding attention.
pub(crate) fn gemma_rope(
    keys: &Keys<'_>,
    context: usize,
) -> Result<(RopeConfig, RopeConfig), ConfigError> {
    let by_type = keys.object("rope_parameters")?;
    if let Some(k) = &by_type
        && (k.has("rope_theta") || k.has("rope_type") || k.has("type"))
    {
        return Err(keys.error("rope_parameters", "expected one object for each layer type"));
    }
    let of = |name: &str| match &by_type {
        Some(k) => k.object(name),
        None => Ok(None),
    };
    let global = theta(keys, "rope_theta")?.unwrap_or(1_000_000.0);
    let local = theta(keys, "rope_local_base_freq")?.unwrap_or(10_000.0);
    let newer = of("full_attention")?;
    let newer_theta = match &newer {
        Some(k) => theta(k, "rope_theta")?,
        None => None,
    };
    // The older `rope_scaling` stretches full attention only.
    let older = keys.object("rope_scaling")?.filter(|k| !k.is_empty());
    let (full, global) = (older.or(newer), newer_theta.unwrap_or(global));
    Ok((
        read(keys, full.as_ref(), global, context, None)?,
        read(
            keys,
            of("sliding_attention")?.as_ref(),
            local,
            context,
            None,
        )?,
    ))
}

fn theta(keys: &Keys<'_>, key: &str) -> Result<Option<f64>, ConfigError> {
    match keys.positive(key)? {
        Some(x) if x <= 1.0 => Err(keys.error(key, format!("{x} is not above 1"))),
        found => Ok(found),
    }
}

/// One object of rope parameters. `outer` is the original context where it stands outside of the
/// object, which comes first.
fn read(
    keys: &Keys<'_>,
    object: Option<&Keys<'_>>,
    default_theta: f64,
    context: usize,
    outer: Option<usize>,
) -> Result<RopeConfig, ConfigError> {
    let Some(k) = object else {
        return Ok(RopeConfig {
            theta: default_theta,
            scaling: RopeScaling::Default,
        });
    };
    let theta = theta(k, "rope_theta")?.unwrap_or(default_theta);
    for holder in [keys, k] {
        if holder
            .number("partial_rotary_factor")?
            .is_some_and(|p| p != 1.0)
        {
            let what = "a rotary embedding of a part of each head (`partial_rotary_factor`)";
            return Err(ConfigError::Unsupported(what.to_string()));
        }
    }
    let original_context = outer.or(k.size("original_max_position_embeddings")?);
    let original_context = original_context.unwrap_or(context);
    let scaling = scaling(k, original_context, context)?;
    if original_context == 0 {
        return Err(k.error("original_max_position_embeddings", "must not be 0"));
    }
    Ok(RopeConfig { theta, scaling })
}

/// The scaling that an object of rope parameters names.
fn scaling(
    k: &Keys<'_>,
    original_context: usize,
    context: usize,
) -> Result<RopeScaling, ConfigError> {
    let name = k.text("rope_type")?.or(k.text("type")?);
    match name.unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: required(k, "factor")?,
        }),
        "llama3" => llama3(k, original_context),
        "yarn" => yarn(k, original_context, context),
        name @ ("dynamic" | "longrope") => {
            let what = format!("rope type `{name}`, whose frequencies change with the length,");
            Err(ConfigError::Unsupported(what))
        }
        other => Err(ConfigError::Unknown {
            what: "rope type",
            found: other.to_string(),
            known: "default, linear, llama3, yarn".to_string(),
        }),
    }
}

fn required(k: &Keys<'_>, key: &str) -> Result<f64, ConfigError> {
    k.positive(key)?
        .ok_or_else(|| k.error(key, "is missing; this rope type needs it"))
}

fn llama3(k: &Keys<'_>, original_context: usize) -> Result<RopeScaling, ConfigError> {
    let low_freq_factor = required(k, "low_freq_factor")?;
    let high_freq_factor = required(k, "high_freq_factor")?;
    if high_freq_factor <= low_freq_factor {
        let reason = format!("{high_freq_factor} is not above low_freq_factor {low_freq_factor}");
        return Err(k.error("high_freq_factor", reason));
    }
    Ok(RopeScaling::Llama3 {
        factor: required(k, "factor")?,
        low_freq_factor,
        high_freq_factor,
        original_context,
    })
}

fn yarn(k: &Keys<'_>, original_context: usize, context: usize) -> Result<RopeScaling, ConfigError> {
    let ratio = context as f64 / original_context.max(1) as f64;
    let factor = k.positive("factor")?.unwrap_or(ratio);
    // A zero counts as absent for these keys, as it does in the original.
    let nonzero = |key: &str| k.number(key).map(|x| x.filter(|&x| x != 0.0));
    let mscale = |m: f64| match factor {
        f if f <= 1.0 => 1.0,
        f => 0.1 * m * f.ln() + 1.0,
    };
    let inferred = match (nonzero("mscale")?, nonzero("mscale_all_dim")?) {
        (Some(m), Some(all)) => mscale(m) / mscale(all),
        _ => mscale(1.0),
    };
    let beta_fast = nonzero("beta_fast")?.unwrap_or(32.0);
    let beta_slow = nonzero("beta_slow")?.unwrap_or(1.0);
    if beta_slow <= 0.0 || beta_fast < beta_slow {
        let reason = format!("{beta_fast} and beta_slow {beta_slow} are not in order");
        return Err(k.error("beta_fast", reason));
    }
    let attention_factor = k.positive("attention_factor")?.unwrap_or(inferred);
    if !(attention_factor.is_finite() && attention_factor > 0.0) {
        return Err(k.error("mscale", format!("gives the factor {attention_factor}")));
    }
    Ok(RopeScaling::Yarn {
        factor,
        original_context,
        attention_factor,
        beta_fast,
        beta_slow,
        truncate: k.flag("truncate")?.unwrap_or(true),
    })
}
