//! What a variant changes of the recipe that all of a comparison share.

use std::fmt;

use craft_core::recipe::{Conditioning, RecipeError};
use craft_core::select::{AdvantageScale, Sign, Statistics, Total};
use craft_core::{Recipe, RewardName};
use serde::{Serialize, Serializer};

/// One key of the recipe with its new value. Its text is what `--set` would be given, and stands in
/// `compare.json`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    /// `select.max_samples`
    MaxSamples(usize),
    /// `select.max_per_prompt`
    MaxPerPrompt(usize),
    /// `select.margin`
    Margin(f64),
    /// `select.min_passes`
    MinPasses(usize),
    /// `select.total`
    Total(Total),
    /// `select.sign`
    Sign(Sign),
    /// `select.statistics`
    Statistics(Statistics),
    /// `select.advantage_scale`
    AdvantageScale(AdvantageScale),
    /// `train.conditioning`
    Conditioning(Conditioning),
    /// `train.learning_rate`
    LearningRate(f64),
    /// `train.steps`
    Steps(usize),
    /// `train.timestep_min`
    FirstTimestep(usize),
    /// `train.timestep_max`
    LastTimestep(usize),
    /// `train.unconditional_dropout`
    Dropout(f64),
    /// `rewards.NAME.filter`
    Filter(RewardName, bool),
    /// `rounds.count`
    Rounds(usize),
    /// `rounds.same_budget`
    SameBudget(bool),
}

impl Change {
    /// Makes the change.
    fn apply(&self, recipe: &mut Recipe) {
        let Recipe { select, train, rounds, rewards, .. } = recipe;
        match self {
            Self::MaxSamples(n) => select.max_samples = *n,
            Self::MaxPerPrompt(n) => select.max_per_prompt = Some(*n),
            Self::Margin(margin) => select.margin = *margin,
            Self::MinPasses(n) => select.min_passes = Some(*n),
            Self::Total(total) => select.total = *total,
            Self::Sign(sign) => select.sign = *sign,
            Self::Statistics(statistics) => select.statistics = *statistics,
            Self::AdvantageScale(scale) => select.advantage_scale = *scale,
            Self::Conditioning(text) => train.conditioning = *text,
            Self::LearningRate(rate) => train.learning_rate = *rate,
            Self::Steps(n) => train.steps = *n,
            Self::FirstTimestep(t) => train.timestep_min = *t,
            Self::LastTimestep(t) => train.timestep_max = Some(*t),
            Self::Dropout(chance) => train.unconditional_dropout = *chance,
            Self::Filter(name, used) => {
                for reward in rewards.iter_mut().filter(|reward| reward.name == *name) {
                    reward.filter = *used;
                }
            }
            Self::Rounds(n) => rounds.count = *n,
            Self::SameBudget(same) => rounds.same_budget = *same,
        }
    }
}

/// The recipe with all changes made, in their order.
pub(super) fn changed(recipe: &Recipe, changes: &[Change]) -> Recipe {
    let mut own = recipe.clone();
    for change in changes {
        change.apply(&mut own);
    }
    own
}

/// The same, checked as if it had been written in a file.
///
/// # Errors
/// When a changed value is out of its range, or does not go with the others.
pub(super) fn checked(recipe: &Recipe, changes: &[Change]) -> Result<Recipe, RecipeError> {
    let own = changed(recipe, changes);
    own.validate()?;
    Ok(own)
}

/// A word of the recipe, as it is written there.
fn word(value: &impl Serialize) -> String {
    let value = serde_json::to_value(value).unwrap_or_default();
    value.as_str().unwrap_or_default().to_owned()
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MaxSamples(n) => write!(f, "select.max_samples={n}"),
            Self::MaxPerPrompt(n) => write!(f, "select.max_per_prompt={n}"),
            Self::Margin(margin) => write!(f, "select.margin={margin:?}"),
            Self::MinPasses(n) => write!(f, "select.min_passes={n}"),
            Self::Total(total) => write!(f, "select.total={}", word(total)),
            Self::Sign(sign) => write!(f, "select.sign={}", word(sign)),
            Self::Statistics(rows) => write!(f, "select.statistics={}", word(rows)),
            Self::AdvantageScale(scale) => write!(f, "select.advantage_scale={}", word(scale)),
            Self::Conditioning(text) => write!(f, "train.conditioning={}", word(text)),
            Self::LearningRate(rate) => write!(f, "train.learning_rate={rate:e}"),
            Self::Steps(n) => write!(f, "train.steps={n}"),
            Self::FirstTimestep(t) => write!(f, "train.timestep_min={t}"),
            Self::LastTimestep(t) => write!(f, "train.timestep_max={t}"),
            Self::Dropout(chance) => write!(f, "train.unconditional_dropout={chance:?}"),
            Self::Filter(name, used) => write!(f, "rewards.{name}.filter={used}"),
            Self::Rounds(n) => write!(f, "rounds.count={n}"),
            Self::SameBudget(same) => write!(f, "rounds.same_budget={same}"),
        }
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const RECIPE: &str = "[model]\npath = \"m\"\n[prompts]\nsource = \"pocket\"\n[[rewards]]\nname = \"a-hps\"\n[[rewards]]\nname = \"a-aes\"\n";

    #[test]
    fn a_change_is_what_its_text_sets() {
        let recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
        let changes = [
            Change::MaxSamples(7),
            Change::MaxPerPrompt(2),
            Change::Margin(0.25),
            Change::MinPasses(1),
            Change::Total(Total::Gdpo),
            Change::Sign(Sign::Shifted),
            Change::Statistics(Statistics::Survivors),
            Change::AdvantageScale(AdvantageScale::None),
            Change::Conditioning(Conditioning::Mixed),
            Change::LearningRate(3e-5),
            Change::Steps(9),
            Change::FirstTimestep(10),
            Change::LastTimestep(500),
            Change::Dropout(0.1),
            Change::Filter(RewardName::new("a-aes").unwrap(), false),
            Change::Rounds(3),
            Change::SameBudget(true),
        ];
        for change in &changes {
            let one = std::slice::from_ref(change);
            let read = Recipe::parse(RECIPE, &[change.to_string()]).unwrap();
            assert_eq!(checked(&recipe, one).unwrap(), read, "{change}");
            assert_ne!(recipe, read, "{change}");
        }
        let texts: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(changed(&recipe, &changes), Recipe::parse(RECIPE, &texts).unwrap());
    }

    #[test]
    fn a_change_that_a_recipe_cannot_have_is_refused_by_its_key() {
        let recipe = Recipe::parse(RECIPE, &["train.warmup_steps=20"]).unwrap();
        let error = checked(&recipe, &[Change::Steps(15)]).unwrap_err().to_string();
        assert!(error.contains("train.warmup_steps"), "{error}");
        assert!(checked(&recipe, &[Change::MinPasses(3)]).is_err());
    }
}
