//! Transformer blocks of a UNet, by level and by attention of a level.

use serde::Deserialize;
use serde_json::Value;

/// Depths of one level: the same in all its attentions, or one number for each.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Depth {
    /// The same in all.
    All(usize),
    /// By attention, in the order of computation.
    Each(Vec<usize>),
}

/// `transformer_layers_per_block`: one number everywhere, or one [`Depth`] per level. Networks that
/// were distilled by leaving blocks out, such as SSD-1B, have lists within the list.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(untagged)]
pub enum Depths {
    /// The same everywhere.
    Same(usize),
    /// By level.
    Levels(Vec<Depth>),
}

impl Depths {
    /// Transformer blocks of an attention of a level.
    pub fn at(&self, level: usize, attention: usize) -> Option<usize> {
        match self {
            Self::Same(depth) => Some(*depth),
            Self::Levels(levels) => match levels.get(level)? {
                Depth::All(depth) => Some(*depth),
                Depth::Each(depths) => depths.get(attention).copied(),
            },
        }
    }

    /// Whether a value of a config has such a form.
    pub fn fits(value: &Value) -> bool {
        let level =
            |v: &Value| v.is_u64() || v.as_array().is_some_and(|v| v.iter().all(Value::is_u64));
        value.is_u64() || value.as_array().is_some_and(|levels| levels.iter().all(level))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        let read = |json: &str| serde_json::from_str::<Depths>(json).unwrap();
        assert_eq!(read("2").at(5, 7), Some(2));
        let plain = read("[1, 2, 10]");
        assert_eq!((plain.at(2, 1), plain.at(3, 0)), (Some(10), None));
        let nested = read("[[4, 4, 10], [2, 1, 1], 1]");
        assert_eq!(
            (nested.at(0, 2), nested.at(1, 1), nested.at(2, 9)),
            (Some(10), Some(1), Some(1))
        );
        assert_eq!(nested.at(0, 3), None);
        for (json, fits) in
            [("[1, [2]]", true), ("[[[1]]]", false), ("\"1\"", false), ("1.5", false)]
        {
            assert_eq!(Depths::fits(&serde_json::from_str(json).unwrap()), fits, "{json}");
        }
    }
}
