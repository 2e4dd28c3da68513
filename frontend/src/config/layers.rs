//! Which layers attend to everything before them and which through a sliding window.

use super::{ConfigError, Keys, LayerConfig};

/// The kinds of attention, one a layer: `true` for a sliding window.
pub(crate) struct LayerKinds(Vec<bool>);

impl LayerKinds {
    /// `layer_types` where the configuration has it, else `default` of each layer's number.
    pub fn read(
        keys: &Keys<'_>,
        n_layers: usize,
        default: impl Fn(usize) -> bool,
    ) -> Result<Self, ConfigError> {
        let Some(types) = keys.texts("layer_types")? else {
            return Ok(LayerKinds((0..n_layers).map(default).collect()));
        };
        if types.len() != n_layers {
            let reason = format!("{} entries for {n_layers} layers", types.len());
            return Err(keys.error("layer_types", reason));
        }
        let kind = |name: &&str| match *name {
            "full_attention" => Ok(false),
            "sliding_attention" => Ok(true),
            other => Err(ConfigError::Unknown {
                what: "layer type",
                found: other.to_string(),
                known: "full_attention, sliding_attention".to_string(),
            }),
        };
        let kinds: Result<_, _> = types.iter().map(kind).collect();
        Ok(LayerKinds(kinds?))
    }

    /// The layers, sliding ones with `window` and rope `sliding_rope`, the others with rope 0.
    pub fn layers(
        &self,
        keys: &Keys<'_>,
        window: Option<usize>,
        sliding_rope: usize,
    ) -> Result<Vec<LayerConfig>, ConfigError> {
        let layer = |(i, &sliding): (usize, &bool)| match (sliding, window) {
            (false, _) => Ok(LayerConfig { window: 0, rope: 0 }),
            (true, Some(window)) => Ok(LayerConfig {
                window,
                rope: sliding_rope,
            }),
            (true, None) => {
                let reason = format!("layer {i} slides, but there is no window");
                Err(keys.error("sliding_window", reason))
            }
        };
        self.0.iter().enumerate().map(layer).collect()
    }
}

/// `sliding_window`: `default` where the key is absent, no window where it is `null`.
pub(crate) fn window(
    keys: &Keys<'_>,
    default: Option<usize>,
) -> Result<Option<usize>, ConfigError> {
    let default = default.filter(|_| !keys.is_null("sliding_window"));
    match keys.size("sliding_window")?.or(default) {
        Some(0) => Err(keys.error("sliding_window", "must not be 0")),
        Some(n) if i32::try_from(n).is_err() => {
            Err(keys.error("sliding_window", format!("{n} is absurd")))
        }
        found => Ok(found),
    }
}

/// Every layer alike, with the window the configuration gives (Mistral).
pub(crate) fn same_layers(
    keys: &Keys<'_>,
    n_layers: usize,
    default: Option<usize>,
) -> Result<Vec<LayerConfig>, ConfigError> {
    let window = window(keys, default)?.unwrap_or(0);
    Ok(vec![LayerConfig { window, rope: 0 }; n_layers])
}

/// Qwen: a window only with `use_sliding_window`, and then from layer `max_window_layers` on.
pub(crate) fn qwen_layers(
    keys: &Keys<'_>,
    n_layers: usize,
) -> Result<Vec<LayerConfig>, ConfigError> {
    let enabled = keys.flag("use_sliding_window")?.unwrap_or(false);
    let window = if enabled {
        window(keys, Some(4096))?
    } else {
        None
    };
    let first = keys.size("max_window_layers")?.unwrap_or(28);
    let kinds = LayerKinds::read(keys, n_layers, |i| window.is_some() && i >= first)?;
    kinds.layers(keys, window, 0)
}
