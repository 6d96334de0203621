//! Ablations of CRAFT: variants that differ from the recipe in one thing.

use super::methods::{self, Method};
use crate::error::{PipelineError, Result};

/// A part of the candidates that a variant may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(super) struct Part {
    /// The first so many prompts only.
    pub(super) prompts: Option<usize>,
    /// The first so many wordings of each prompt only, beside the prompt itself.
    pub(super) wordings: Option<usize>,
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
            ("all", &[]),
            ("late", &["train.timestep_max=500"]),
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
/// Samples that `pressure` keeps, and the share of candidates that each variant keeps, one in so many.
const PRESSURES: [usize; 5] = [1, 2, 5, 10, 20];

/// Names of all ablations.
pub(super) fn names() -> Vec<&'static str> {
    KEYS.iter().map(|a| a.0).chain(["filter", "group-size", "pressure"]).collect()
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
        "pressure" => {
            // The same number of samples, from ever more candidates.
            let keep = (prompts * wordings / PRESSURES[PRESSURES.len() - 1]).max(1);
            let keep = format!("select.max_samples={keep}");
            let all: Vec<Variant> = PRESSURES
                .iter()
                .map(|one_in| {
                    let share = PRESSURES[PRESSURES.len() - 1] / one_in;
                    let part = Part { prompts: Some((prompts / share).max(1)), ..Part::default() };
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
                let filter = variant
                    .method
                    .overrides(&Recipe::parse::<String>(RECIPE, &[]).unwrap())
                    .unwrap();
                let all = [filter, variant.overrides].concat();
                Recipe::parse(RECIPE, &all).unwrap_or_else(|e| panic!("{}: {e}", variant.name));
            }
        }
        assert_eq!(variants("pressure", 240, 4).unwrap()[0].part.prompts, Some(12));
        assert!(variants("hat", 1, 1).is_err());
    }
}
