//! Typed access to the keys of a JSON object, with errors that name the key.

use serde_json::{Map, Value};

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not an object.
    #[error("not a model configuration: {0}")]
    Json(String),
    /// A key's value is of the wrong kind, or outside what makes sense.
    #[error("`{key}`: {reason}")]
    Value {
        /// The key, with the objects it stands in.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A name that this compiler does not know.
    #[error("unknown {what} `{found}`; known are {known}")]
    Unknown {
        /// What the name stands for.
        what: &'static str,
        /// The name.
        found: String,
        /// The names that would have done.
        known: String,
    },
    /// A feature that the configuration asks for and this compiler does not have.
    #[error("{0} is not supported")]
    Unsupported(String),
}

/// The keys of one JSON object. A key that is absent and one that is `null` read alike, as
/// `None`, unless [`Keys::is_null`] is asked.
#[derive(Clone, Debug)]
pub(crate) struct Keys<'a> {
    map: &'a Map<String, Value>,
    /// What stands before a key in messages: empty, or `text_config.`.
    prefix: String,
}

impl<'a> Keys<'a> {
    /// The keys of the object `value`.
    pub fn new(value: &'a Value) -> Result<Self, ConfigError> {
        let map = value
            .as_object()
            .ok_or_else(|| ConfigError::Json("expected a JSON object".into()))?;
        Ok(Keys {
            map,
            prefix: String::new(),
        })
    }

    /// An error about `key`.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            key: format!("{}{key}", self.prefix),
            reason: reason.into(),
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn read<X>(
        &self,
        key: &str,
        what: &str,
        f: impl FnOnce(&'a Value) -> Option<X>,
    ) -> Result<Option<X>, ConfigError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match f(value) {
            Some(x) => Ok(Some(x)),
            None => Err(self.error(key, format!("expected {what}, found {}", brief(value)))),
        }
    }

    /// Whether the key is there and `null`.
    pub fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// Whether the key is there and not `null`.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// A whole number, not negative.
    pub fn size(&self, key: &str) -> Result<Option<usize>, ConfigError> {
        self.read(key, "a whole number", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok())
        })
    }

    /// A finite number.
    pub fn number(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        self.read(key, "a finite number", |v| {
            v.as_f64().filter(|x| x.is_finite())
        })
    }

    /// A finite number greater than zero, also as f32.
    pub fn positive(&self, key: &str) -> Result<Option<f64>, ConfigError> {
        let fits = |x: f64| (x as f32).is_finite() && x as f32 > 0.0;
        self.read(key, "a number greater than zero", |v| {
            v.as_f64().filter(|&x| fits(x))
        })
    }

    /// `true` or `false`.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.read(key, "true or false", Value::as_bool)
    }

    /// A string.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        self.read(key, "a string", Value::as_str)
    }

    /// A list of strings.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, ConfigError> {
        self.read(key, "a list of strings", |v| {
            v.as_array()?.iter().map(Value::as_str).collect()
        })
    }

    /// An object.
    pub fn object(&self, key: &str) -> Result<Option<Keys<'a>>, ConfigError> {
        let map = self.read(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Keys {
            map,
            prefix: format!("{}{key}.", self.prefix),
        }))
    }

    /// Whether the object has no keys.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// A token id, or a list of them, or nothing.
    pub fn token_ids(&self, key: &str) -> Result<Option<Vec<u32>>, ConfigError> {
        let id = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.read(key, "a token id or a list of them", |v| {
            match v.as_array() {
                Some(list) => list.iter().map(id).collect(),
                None => id(v).map(|id| vec![id]),
            }
        })
    }
}

/// A value cut to a length that fits in a message.
fn brief(value: &Value) -> String {
    const LONGEST: usize = 60;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_of_the_wrong_kind_are_named() {
        let value =
            json!({"n": -1, "x": "y", "f": 1.5, "o": {"n": [1, "a"]}, "null": null, "tiny": 1e-60});
        let keys = Keys::new(&value).unwrap();
        let text = |e: ConfigError| e.to_string();
        assert_eq!(
            text(keys.size("n").unwrap_err()),
            "`n`: expected a whole number, found -1"
        );
        assert_eq!(
            text(keys.size("f").unwrap_err()),
            "`f`: expected a whole number, found 1.5"
        );
        assert!(text(keys.number("x").unwrap_err()).contains("finite number"));
        assert!(keys.positive("tiny").is_err(), "zero as f32");
        assert_eq!(keys.size("null").unwrap(), None);
        assert!(keys.is_null("null") && !keys.is_null("absent"));
        let inner = keys.object("o").unwrap().unwrap();
        assert!(text(inner.token_ids("n").unwrap_err()).starts_with("`o.n`: expected a token id"));
        assert!(Keys::new(&json!([])).is_err());
    }

    #[test]
    fn long_values_are_cut() {
        let value = json!({"n": "é".repeat(200)});
        let error = Keys::new(&value)
            .unwrap()
            .size("n")
            .unwrap_err()
            .to_string();
        assert!(error.len() < 200, "{error}");
    }
}
