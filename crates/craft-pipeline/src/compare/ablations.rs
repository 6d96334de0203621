//! Ablations of CRAFT: variants that differ from the recipe in one thing.

use std::collections::BTreeSet;

use super::methods;
use crate::error::{PipelineError, Result};
use craft_train::methods::Method;

/// A part of the candidates that a variant may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Part {
    /// The first so many prompts only.
    pub(super) prompts: Option<usize>,
    /// The first so many wordings of each prompt only, beside the prompt itself.
    pub(super) wordings: Option<usize>,
    /// Half of each prompt's wordings, by how far they depart from it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spread: Option<Spread>,
}

/// Which half of a prompt's wordings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(super) enum Spread {
    /// Those that share most words with the prompt.
    Near,
    /// The others.
    Far,
    /// Every other one.
    Mixed,
}

impl Spread {
    /// Places of the wordings that are kept, of all wordings of a prompt. Closeness is the number of different
    /// words that wording and prompt share over the number that either has.
    pub(super) fn kept(self, prompt: &str, wordings: &[&str]) -> Vec<usize> {
        let words = |text: &str| -> BTreeSet<String> {
            let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
            parts.map(str::to_lowercase).collect()
        };
        let own = words(prompt);
        let closeness = |text: &str| {
            let other = words(text);
            let all = own.union(&other).count().max(1);
            own.intersection(&other).count() as f64 / all as f64
        };
        let mut places: Vec<usize> = (0..wordings.len()).collect();
        if self != Self::Mixed {
            // Stable: of equals the first.
            places.sort_by(|a, b| closeness(wordings[*b]).total_cmp(&closeness(wordings[*a])));
        }
        let half = wordings.len().div_ceil(2);
        let mut kept: Vec<usize> = match self {
            Self::Near => places.into_iter().take(half).collect(),
            Self::Far => places.into_iter().rev().take(half).collect(),
            Self::Mixed => places.into_iter().step_by(2).collect(),
        };
        kept.sort_unstable();
        kept
    }
}

/// A method under another name, with changes of the recipe.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) method: &'static Method,
    pub(super) overrides: Vec<String>,
    pub(super) part: Part,
}

/// An ablation: its name, and each variant as (label, overrides).
type Ablation = (&'static str, &'static [(&'static str, &'static [&'static str])]);

/// Ablations whose variants change keys of the recipe.
const KEYS: &[Ablation] = &[
    (
        "samples",
        &[
            ("10", &["select.max_samples=10"]),
            ("30", &["select.max_samples=30"]),
            ("100", &["select.max_samples=100"]),
            ("300", &["select.max_samples=300"]),
            ("1000", &["select.max_samples=1000"]),
        ],
    ),
    (
        "per-prompt",
        &[("1", &["select.max_per_prompt=1"]), ("2", &["select.max_per_prompt=2"]), ("any", &[])],
    ),
    (
        "margin",
        &[
            ("0", &["select.margin=0.0"]),
            ("0.25", &["select.margin=0.25"]),
            ("0.5", &["select.margin=0.5"]),
        ],
    ),
    (
        "min-passes",
        &[
            ("0", &["select.min_passes=0"]),
            ("1", &["select.min_passes=1"]),
            ("2", &["select.min_passes=2"]),
            ("all", &[]),
        ],
    ),
    (
        "total",
        &[
            ("zscore", &["select.total=zscore"]),
            ("raw", &["select.total=raw"]),
            ("gdpo", &["select.total=gdpo"]),
        ],
    ),
    (
        "sign",
        &[
            ("clip", &["select.sign=clip"]),
            ("ones", &["select.sign=ones"]),
            ("shifted", &["select.sign=shifted"]),
            // Signed weights are for all candidates: those that pass the filter are mostly good.
            ("signed", &["select.sign=signed", "select.min_passes=0", "select.max_samples=100000"]),
        ],
    ),
    (
        "conditioning",
        &[
            ("original", &["train.conditioning=original"]),
            ("expanded", &["train.conditioning=expanded"]),
            ("mixed", &["train.conditioning=mixed"]),
        ],
    ),
    (
        "statistics",
        &[("group", &["select.statistics=group"]), ("survivors", &["select.statistics=survivors"])],
    ),
    (
        "advantage-scale",
        &[("group", &["select.advantage_scale=group"]), ("none", &["select.advantage_scale=none"])],
    ),
    (
        "learning-rate",
        &[
            ("1e-5", &["train.learning_rate=1e-5"]),
            ("3e-5", &["train.learning_rate=3e-5"]),
            ("1e-4", &["train.learning_rate=1e-4"]),
            ("3e-4", &["train.learning_rate=3e-4"]),
        ],
    ),
    (
        "steps",
        &[
            ("15", &["train.steps=15"]),
            ("30", &["train.steps=30"]),
            ("60", &["train.steps=60"]),
            ("120", &["train.steps=120"]),
        ],
    ),
    (
        "timesteps",
        &[
            ("all", &["train.timestep_min=0"]),
            ("late", &["train.timestep_min=0", "train.timestep_max=500"]),
            ("early", &["train.timestep_min=500"]),
        ],
    ),
    (
        "dropout",
        &[
            ("0", &["train.unconditional_dropout=0.0"]),
            ("0.1", &["train.unconditional_dropout=0.1"]),
            ("0.3", &["train.unconditional_dropout=0.3"]),
        ],
    ),
];

/// Wordings a prompt that `group-size` tries.
const GROUP_SIZES: [usize; 4] = [1, 2, 4, 8];
/// Shares of candidates that the variants of `pressure` keep, one in so many; the last says how many samples
/// all of them keep.
const PRESSURES: [usize; 5] = [1, 2, 5, 10, 20];
/// The same of `pressure-100`, with fewer samples.
const STRONG_PRESSURES: [usize; 5] = [1, 5, 20, 50, 100];

/// Names of all ablations.
pub(super) fn names() -> Vec<&'static str> {
    KEYS.iter()
        .map(|a| a.0)
        .chain(["filter", "group-size", "spread", "pressure", "pressure-100"])
        .collect()
}

/// The variants of an ablation for a recipe with so many training prompts and wordings of each.
pub(super) fn variants(name: &str, prompts: usize, wordings: usize) -> Result<Vec<Variant>> {
    let craft = methods::of_names(&["craft".to_owned()])?[0];
    let variant = |label: &str, overrides: &[&str], part: Part| Variant {
        name: format!("{name}-{label}"),
        method: craft,
        overrides: overrides.iter().map(|o| (*o).to_owned()).collect(),
        part,
    };
    if let Some((_, found)) = KEYS.iter().find(|a| a.0 == name) {
        return Ok(found
            .iter()
            .map(|(label, keys)| variant(label, keys, Part::default()))
            .collect());
    }
    match name {
        "filter" => {
            let names = ["craft", "craft-h", "craft-ha", "craft-none", "random"];
            let methods = methods::of_names(&names.map(str::to_owned))?;
            Ok(methods.into_iter().map(Variant::of).collect())
        }
        "group-size" => Ok(GROUP_SIZES
            .iter()
            .filter(|n| **n <= wordings)
            .map(|n| {
                let part = Part { wordings: Some(*n), ..Part::default() };
                variant(&n.to_string(), &[], part)
            })
            .collect()),
        "spread" => Ok([("near", Spread::Near), ("far", Spread::Far), ("mixed", Spread::Mixed)]
            .map(|(label, spread)| {
                variant(label, &[], Part { spread: Some(spread), ..Part::default() })
            })
            .into()),
        "pressure" | "pressure-100" => {
            let shares = if name == "pressure" { PRESSURES } else { STRONG_PRESSURES };
            let strongest = shares[shares.len() - 1];
            // The same number of samples, from ever more candidates.
            let keep = (prompts * wordings / strongest).max(1);
            let keep = format!("select.max_samples={keep}");
            let all: Vec<Variant> = shares
                .iter()
                .map(|one_in| {
                    let seen = (prompts * one_in / strongest).max(1);
                    let part = Part { prompts: Some(seen), ..Part::default() };
                    // Where all are kept no filter can be.
                    let filter = if *one_in == 1 {
                        &["select.min_passes=0", "select.sign=ones"][..]
                    } else {
                        &[]
                    };
                    let overrides = [&[keep.as_str()][..], filter].concat();
                    variant(&format!("1-in-{one_in}"), &overrides, part)
                })
                .collect();
            Ok(all)
        }
        _ => Err(PipelineError::Usage(format!(
            "--ablation: there is no ablation `{name}`; expected one of {}",
            names().join(", ")
        ))),
    }
}

impl Variant {
    /// A method as it is.
    pub(super) fn of(method: &'static Method) -> Self {
        Self { name: method.name.to_owned(), method, overrides: Vec::new(), part: Part::default() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use craft_core::Recipe;

    const RECIPE: &str = "[model]\npath = \"m\"\n[prompts]\nsource = \"pocket\"\n[[rewards]]\nname = \"a-hps\"\n[[rewards]]\nname = \"a-aes\"\n";

    #[test]
    fn every_variant_is_a_recipe() {
        for name in names() {
            let found = variants(name, 240, 4).unwrap();
            assert!(found.len() > 1, "{name}");
            for variant in found {
                let recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
                let filter = methods::overrides(variant.method, &recipe).unwrap();
                let all = [filter, variant.overrides].concat();
                Recipe::parse(RECIPE, &all).unwrap_or_else(|e| panic!("{}: {e}", variant.name));
            }
        }
        assert_eq!(variants("pressure", 240, 4).unwrap()[0].part.prompts, Some(12));
        assert_eq!(variants("pressure-100", 240, 4).unwrap()[4].part.prompts, Some(240));
        assert!(variants("hat", 1, 1).is_err());
    }

    #[test]
    fn spread_is_by_words_in_common() {
        let wordings = ["a red circle, crisp", "a circle in the fog", "a red circle", "two ships"];
        let kept = |spread: Spread| spread.kept("A red circle", &wordings);
        assert_eq!(kept(Spread::Near), [0, 2]);
        assert_eq!(kept(Spread::Far), [1, 3]);
        assert_eq!(kept(Spread::Mixed), [0, 2]);
        assert_eq!(Spread::Far.kept("x", &["y"]), [0]);
    }
}
