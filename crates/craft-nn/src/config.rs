//! What component configs have in common: errors, and the refusal of what is not supported.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

/// Why a component's `config.json` cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// Not JSON of the expected form.
    #[error("the config is not what {component} expects: {problem}")]
    Parse {
        /// The component's class.
        component: &'static str,
        /// What the JSON reader says, shortened.
        problem: String,
    },
    /// A value that this implementation does not have.
    #[error(
        "{component}: {} = {} is not supported; supported: {supported}",
        shorten(key),
        shorten(value)
    )]
    Unsupported {
        /// The component's class.
        component: &'static str,
        /// The config key.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted.
        supported: String,
    },
    /// Weights whose shapes do not tell the sizes of the network.
    #[error(
        "the sizes of the network cannot be read off its weights: {what}: {found}; expected {expected}: put the model's config.json beside the weights, or check that they are the right file"
    )]
    Weights {
        /// The tensor or part.
        what: String,
        /// What it has.
        found: String,
        /// What it should have.
        expected: String,
    },
}

impl ConfigError {
    /// What the JSON reader says of a component's config, which may quote a value of any length.
    pub(crate) fn parse(component: &'static str, error: &serde_json::Error) -> Self {
        Self::Parse { component, problem: shorten(&error.to_string()) }
    }
}

/// Foreign text as a message quotes it: only its beginning if it is long.
pub fn shorten(text: &str) -> String {
    const SHOWN: usize = 160;
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
    }
}

/// Refuses keys that are set to anything but a value that changes nothing.
///
/// `neutral` lists the keys that are understood only in their neutral form. Keys that start with
/// `_` and keys listed in `ignored` do not change what the network computes.
pub(crate) fn check_rest(
    component: &'static str,
    rest: &BTreeMap<String, Value>,
    neutral: &[(&str, &[Value])],
    ignored: &[&str],
) -> Result<(), ConfigError> {
    for (key, value) in rest {
        if key.starts_with('_') || ignored.contains(&key.as_str()) || value.is_null() {
            continue;
        }
        let allowed = neutral.iter().find(|(name, _)| name == key).map(|(_, values)| *values);
        if allowed.is_some_and(|values| values.contains(value)) {
            continue;
        }
        let supported = match allowed {
            Some(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(", "),
            None => "null (the key is not known)".to_owned(),
        };
        return Err(ConfigError::Unsupported {
            component,
            key: key.clone(),
            value: value.to_string(),
            supported,
        });
    }
    Ok(())
}
