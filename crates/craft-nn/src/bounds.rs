//! What the tensors of a weight file say of the numbers that a config can have, before anything is
//! built from it.
//!
//! A network has no more layers than its file has tensors, and no axis longer than the longest
//! there.

use std::collections::BTreeMap;

use crate::config::ConfigError;

/// Most levels of a network that is built; published ones have three or four.
const MOST_LEVELS: usize = 16;

/// The largest numbers of a weight file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Tensors.
    tensors: usize,
    /// The longest axis of a tensor with values.
    longest: usize,
}

impl Bounds {
    /// Those of tensors with these shapes.
    pub fn of(shapes: &BTreeMap<String, Vec<usize>>) -> Self {
        let whole = shapes.values().filter(|shape| !shape.contains(&0));
        Self { tensors: shapes.len(), longest: whole.flatten().copied().max().unwrap_or(0) }
    }

    /// Refuses a width that no tensor has.
    pub(crate) fn width(
        self,
        component: &'static str,
        key: &str,
        value: usize,
    ) -> Result<(), ConfigError> {
        if value <= self.longest {
            return Ok(());
        }
        Err(refused(
            component,
            key,
            value,
            &format!(
                "at most {}, the longest axis of the weights: use the weights and the config of one model",
                self.longest
            ),
        ))
    }

    /// Refuses more layers than there are tensors.
    pub(crate) fn layers(
        self,
        component: &'static str,
        key: &str,
        value: usize,
    ) -> Result<(), ConfigError> {
        if value <= self.tensors {
            return Ok(());
        }
        Err(refused(
            component,
            key,
            value,
            &format!(
                "no more layers than the weights have tensors ({}): use the weights and the config of one model",
                self.tensors
            ),
        ))
    }
}

/// Refuses a list of levels that is empty or absurdly long.
pub(crate) fn levels(component: &'static str, key: &str, count: usize) -> Result<(), ConfigError> {
    if (1..=MOST_LEVELS).contains(&count) {
        return Ok(());
    }
    let found = format!("a list of {count}");
    Err(refused(component, key, found, &format!("one entry per level, 1 to {MOST_LEVELS}")))
}

/// Refuses numbers that are not finite and above 0.
pub(crate) fn above_zero(
    component: &'static str,
    key: &str,
    value: f64,
    most: f64,
) -> Result<(), ConfigError> {
    if value > 0.0 && value <= most {
        return Ok(());
    }
    Err(refused(component, key, format!("{value:e}"), &format!("a number above 0, at most {most}")))
}

/// Refuses a number of groups that does not divide channels.
pub(crate) fn groups(
    component: &'static str,
    groups: usize,
    channels: &[usize],
) -> Result<(), ConfigError> {
    if groups == 0 {
        return Err(refused(component, "norm_num_groups", groups, "1 or more"));
    }
    match channels.iter().find(|c| **c == 0 || !c.is_multiple_of(groups)) {
        None => Ok(()),
        Some(bad) => {
            let supported = format!("multiples of norm_num_groups = {groups}");
            Err(refused(component, "block_out_channels", bad, &supported))
        }
    }
}

pub(crate) fn refused(
    component: &'static str,
    key: &str,
    value: impl ToString,
    supported: &str,
) -> ConfigError {
    ConfigError::Unsupported {
        component,
        key: key.to_owned(),
        value: value.to_string(),
        supported: supported.to_owned(),
    }
}
