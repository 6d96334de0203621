//! Ablations of CRAFT: variants that differ from the recipe in one thing.

use std::fmt;

use craft_core::recipe::{Conditioning, nearest};
use craft_core::select::{AdvantageScale, Sign, Statistics, Total};

use super::change::Change;
use super::entry::Variant;
use super::methods::{CRAFT, method};
use super::pipeline::{PipelineError, Result};

pub(super) use super::spread::{Part, Spread};

/// Variants of CRAFT that are compared with each other.
pub struct Ablation {
    name: &'static str,
    about: &'static str,
    variants: Variants,
}

/// A variant's label, and what it changes of the recipe.
type Labelled = (&'static str, &'static [Change]);

/// How the variants of an ablation are made.
enum Variants {
    /// By changes of the recipe.
    Changes(&'static [Labelled]),
    /// Methods of these names.
    Methods(&'static [&'static str]),
    /// With so many expansions of each prompt, as far as there are that many.
    GroupSizes(&'static [usize]),
    /// With half of the expansions.
    Spreads(&'static [(&'static str, Spread)]),
    /// With ever smaller shares of the candidates kept, one in so many. The last says how many samples all
    /// of them keep.
    Pressures(&'static [usize]),
}

const fn changes(
    name: &'static str,
    about: &'static str,
    variants: &'static [Labelled],
) -> Ablation {
    Ablation { name, about, variants: Variants::Changes(variants) }
}

/// All ablations.
const ABLATIONS: &[Ablation] = &[
    changes(
        "samples",
        "number of samples",
        &[
            ("10", &[Change::MaxSamples(10)]),
            ("30", &[Change::MaxSamples(30)]),
            ("100", &[Change::MaxSamples(100)]),
            ("300", &[Change::MaxSamples(300)]),
            ("1000", &[Change::MaxSamples(1000)]),
        ],
    ),
    changes(
        "per-prompt",
        "samples of a prompt",
        &[("1", &[Change::MaxPerPrompt(1)]), ("2", &[Change::MaxPerPrompt(2)]), ("any", &[])],
    ),
    changes(
        "margin",
        "how far a reward must rise to pass the filter",
        &[
            ("0", &[Change::Margin(0.0)]),
            ("0.25", &[Change::Margin(0.25)]),
            ("0.5", &[Change::Margin(0.5)]),
        ],
    ),
    changes(
        "min-passes",
        "how many filter rewards must rise",
        &[
            ("0", &[Change::MinPasses(0)]),
            ("1", &[Change::MinPasses(1)]),
            ("2", &[Change::MinPasses(2)]),
            ("all", &[]),
        ],
    ),
    changes(
        "total",
        "how rewards are summed",
        &[
            ("zscore", &[Change::Total(Total::Zscore)]),
            ("raw", &[Change::Total(Total::Raw)]),
            ("gdpo", &[Change::Total(Total::Gdpo)]),
        ],
    ),
    changes(
        "sign",
        "how advantages become weights",
        &[
            ("clip", &[Change::Sign(Sign::Clip)]),
            ("ones", &[Change::Sign(Sign::Ones)]),
            ("shifted", &[Change::Sign(Sign::Shifted)]),
            // Signed weights are for all candidates: those that pass the filter are mostly good.
            (
                "signed",
                &[Change::Sign(Sign::Signed), Change::MinPasses(0), Change::MaxSamples(100_000)],
            ),
        ],
    ),
    changes(
        "conditioning",
        "text of the loss",
        &[
            ("original", &[Change::Conditioning(Conditioning::Original)]),
            ("expanded", &[Change::Conditioning(Conditioning::Expanded)]),
            ("mixed", &[Change::Conditioning(Conditioning::Mixed)]),
        ],
    ),
    changes(
        "statistics",
        "statistics over the group or the survivors",
        &[
            ("group", &[Change::Statistics(Statistics::Group)]),
            ("survivors", &[Change::Statistics(Statistics::Survivors)]),
        ],
    ),
    changes(
        "advantage-scale",
        "scale of the advantages",
        &[
            ("group", &[Change::AdvantageScale(AdvantageScale::Group)]),
            ("none", &[Change::AdvantageScale(AdvantageScale::None)]),
        ],
    ),
    changes(
        "learning-rate",
        "learning rate",
        &[
            ("1e-5", &[Change::LearningRate(1e-5)]),
            ("3e-5", &[Change::LearningRate(3e-5)]),
            ("1e-4", &[Change::LearningRate(1e-4)]),
            ("3e-4", &[Change::LearningRate(3e-4)]),
        ],
    ),
    changes(
        "steps",
        "training steps",
        &[
            ("15", &[Change::Steps(15)]),
            ("30", &[Change::Steps(30)]),
            ("60", &[Change::Steps(60)]),
            ("120", &[Change::Steps(120)]),
        ],
    ),
    changes(
        "timesteps",
        "range of timesteps",
        &[
            ("all", &[Change::FirstTimestep(0)]),
            ("late", &[Change::FirstTimestep(0), Change::LastTimestep(500)]),
            ("early", &[Change::FirstTimestep(500)]),
        ],
    ),
    changes(
        "dropout",
        "chance of the empty prompt",
        &[
            ("0", &[Change::Dropout(0.0)]),
            ("0.1", &[Change::Dropout(0.1)]),
            ("0.3", &[Change::Dropout(0.3)]),
        ],
    ),
    Ablation {
        name: "filter",
        about: "rewards that filter",
        variants: Variants::Methods(&["craft", "craft-h", "craft-ha", "craft-none", "random"]),
    },
    Ablation {
        name: "group-size",
        about: "expansions of a prompt",
        variants: Variants::GroupSizes(&[1, 2, 4, 8]),
    },
    Ablation {
        name: "spread",
        about: "distance of the expansions from their prompt",
        variants: Variants::Spreads(&[
            ("near", Spread::Near),
            ("far", Spread::Far),
            ("mixed", Spread::Mixed),
        ]),
    },
    Ablation {
        name: "pressure",
        about: "the same number of samples from ever more candidates",
        variants: Variants::Pressures(&[1, 2, 5, 10, 20]),
    },
    Ablation {
        name: "pressure-100",
        about: "the same with a fifth as many samples",
        variants: Variants::Pressures(&[1, 5, 20, 50, 100]),
    },
];

impl Ablation {
    /// All of them, in the order of the documents.
    pub fn all() -> &'static [Self] {
        ABLATIONS
    }

    /// Its name on the command line.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What its variants differ in.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// The ablation of this name.
    ///
    /// # Errors
    /// When there is none; the message lists all.
    pub fn named(name: &str) -> Result<&'static Self> {
        ABLATIONS.iter().find(|ablation| ablation.name == name).ok_or_else(|| {
            let all: Vec<&str> = ABLATIONS.iter().map(|ablation| ablation.name).collect();
            let near = nearest(name, all.iter().copied())
                .map_or(".".to_owned(), |near| format!("; did you mean `{near}`?"));
            PipelineError::Usage(format!(
                "there is no ablation `{name}`{near} Expected one of {}",
                all.join(", ")
            ))
        })
    }

    /// Its variants for a recipe with so many training prompts and expansions of each.
    pub(super) fn variants(&self, prompts: usize, expansions: usize) -> Result<Vec<Variant>> {
        let craft = method(CRAFT)?;
        let craft = |label: &str, changes: Vec<Change>, part: Part| Variant {
            name: format!("{}-{label}", self.name),
            changes,
            part,
            ..Variant::of(craft)
        };
        Ok(match &self.variants {
            Variants::Changes(all) => all
                .iter()
                .map(|(label, changes)| craft(label, changes.to_vec(), Part::default()))
                .collect(),
            Variants::Methods(names) => {
                let found: Result<Vec<_>> = names.iter().map(|name| method(name)).collect();
                found?.into_iter().map(Variant::of).collect()
            }
            Variants::GroupSizes(sizes) => sizes
                .iter()
                .filter(|n| **n <= expansions)
                .map(|n| {
                    let part = Part { wordings: Some(*n), ..Part::default() };
                    craft(&n.to_string(), Vec::new(), part)
                })
                .collect(),
            Variants::Spreads(all) => all
                .iter()
                .map(|(label, spread)| {
                    let part = Part { spread: Some(*spread), ..Part::default() };
                    craft(label, Vec::new(), part)
                })
                .collect(),
            Variants::Pressures(shares) => shares
                .iter()
                .map(|one_in| {
                    let strongest = shares.last().copied().unwrap_or(1);
                    // The same number of samples, from ever more candidates.
                    let keep = (prompts * expansions / strongest).max(1);
                    let seen = (prompts * one_in / strongest).max(1);
                    let mut changes = vec![Change::MaxSamples(keep)];
                    if *one_in == 1 {
                        // Nothing can be filtered if all are kept.
                        changes.extend([Change::MinPasses(0), Change::Sign(Sign::Ones)]);
                    }
                    let part = Part { prompts: Some(seen), ..Part::default() };
                    craft(&format!("1-in-{one_in}"), changes, part)
                })
                .collect(),
        })
    }
}

impl fmt::Debug for Ablation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
