//! What a comparison will do, checked before its first expensive step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_core::Recipe;
use craft_core::recipe::PromptSource;

use super::entry::{Entry, Variant};
use super::methods::{self, CRAFT, default_methods};
use super::options::{Choices, Options};
use super::pipeline::{Context, PipelineError, Resolved, Result, RunReward};
use super::{limits, pairs};

/// Prompts that are drawn along training, one picture each.
const CURVE_PROMPTS: usize = 48;
/// Prompts on which learning rate and length are chosen, one picture each.
const SEARCH_PROMPTS: usize = 64;

/// Everything that is decided before the first step.
pub(super) struct Plan {
    pub(super) recipe: Recipe,
    pub(super) seeds: Vec<u64>,
    pub(super) entries: Vec<Entry>,
    pub(super) model_dir: PathBuf,
    pub(super) rewards: Vec<RunReward>,
    /// Learning rates that every method tries.
    pub(super) learning_rates: Vec<f64>,
    /// How many of the first seeds choose the settings; 0: none are searched.
    pub(super) search_seeds: usize,
    /// The share of facts that settings may lose to be chosen.
    pub(super) fact_loss: f64,
    pub(super) pairs: usize,
    pub(super) train_prompts: usize,
    pub(super) eval_prompts: usize,
    pub(super) curve_prompts: usize,
    pub(super) search_prompts: usize,
    /// Reward that decides: the first that is held out, else the first.
    pub(super) decisive: String,
}

impl Plan {
    /// # Errors
    /// Everything that can be wrong with recipe, options, model, rewards and prompts.
    pub(super) fn new(
        recipe_text: &str,
        overrides: &[String],
        base: &Path,
        options: &Options,
        context: &Context<'_>,
    ) -> Result<Self> {
        let recipe = Recipe::parse(recipe_text, overrides)?;
        limits::of_recipe(&recipe)?;
        let choices = Choices::of(options, &recipe)?;
        let found = Resolved::of(&recipe, base, context)?;
        let entries = entries(options, &recipe, found.train_prompts)?;
        if entries.iter().any(|entry| entry.method.data.annotated()) {
            pairs::check(&recipe, base, &found.model_dir, context)?;
        }
        let decisive = decisive(&found.rewards, context);
        Ok(Self {
            seeds: choices.seeds,
            entries,
            learning_rates: choices.learning_rates,
            search_seeds: choices.search_seeds,
            fact_loss: choices.fact_loss,
            pairs: choices.pairs,
            train_prompts: found.train_prompts,
            eval_prompts: found.eval_prompts,
            curve_prompts: CURVE_PROMPTS.min(found.eval_prompts),
            search_prompts: SEARCH_PROMPTS,
            decisive,
            model_dir: found.model_dir,
            rewards: found.rewards,
            recipe,
        })
    }

    /// The seeds whose candidates choose the settings.
    pub(super) fn searched(&self) -> &[u64] {
        &self.seeds[..self.search_seeds]
    }

    /// The recipe of one seed.
    pub(super) fn recipe_of(&self, seed: u64) -> Recipe {
        Recipe { seed, ..self.recipe.clone() }
    }

    pub(super) fn reward_hashes(&self) -> Result<BTreeMap<String, String>> {
        let hash = |r: &RunReward| Ok((r.name.clone(), r.hash()?));
        self.rewards.iter().map(hash).collect()
    }

    /// The entry of CRAFT as the recipe has it, if it takes part.
    pub(super) fn craft(&self) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == CRAFT)
    }

    /// Steps at which a method is evaluated: early and then ever more rarely.
    pub(super) fn points(&self, entry: &Entry) -> Vec<usize> {
        let steps = entry.steps(&self.recipe);
        if steps == 0 {
            return Vec::new();
        }
        // A method that draws as it trains is evaluated between its iterations.
        let whole = match entry.method.data.drawing() {
            Some(_) => self.recipe.generate.steps,
            None => 1,
        };
        let mut points: Vec<usize> = [12, 6, 3, 2, 1]
            .iter()
            .map(|part| (steps / part).max(1).next_multiple_of(whole))
            .collect();
        points.dedup();
        points
    }
}

/// The entries that the options ask for, checked against the recipe.
fn entries(options: &Options, recipe: &Recipe, prompts: usize) -> Result<Vec<Entry>> {
    let annotators = recipe.prompts.source == PromptSource::Pocket;
    let mut entries = Vec::new();
    for variant in variants(options, prompts, recipe.expand.variants)? {
        methods::check(variant.method, recipe, annotators)?;
        entries.push(Entry::new(variant, recipe)?);
    }
    if let Some(count) = options.rounds {
        entries.push(Entry::new(Variant::rounds(count)?, recipe)?);
    }
    Ok(entries)
}

/// The variants of an ablation, the methods that are named, or the default methods.
fn variants(options: &Options, prompts: usize, expansions: usize) -> Result<Vec<Variant>> {
    if let Some(ablation) = options.ablation {
        return ablation.variants(prompts, expansions);
    }
    let methods = match options.methods.as_slice() {
        [] => default_methods(options.quick),
        named => named.to_vec(),
    };
    for (i, method) in methods.iter().enumerate() {
        if methods[..i].iter().any(|other| other.name == method.name) {
            return Err(PipelineError::Usage(format!(
                "--methods: `{}` is named twice; name each method once",
                method.name
            )));
        }
    }
    Ok(methods.into_iter().map(Variant::of).collect())
}

/// The reward that decides, with a note if all are trained on.
fn decisive(rewards: &[RunReward], context: &Context<'_>) -> String {
    let held_out = rewards.iter().find(|reward| !reward.trained_on);
    if held_out.is_none() {
        context.progress.note(
            "no reward is held out, so methods are compared on what they train on; add a [[rewards]] with role = \"held-out\"",
        );
    }
    held_out.or(rewards.first()).map_or(String::new(), |reward| reward.name.clone())
}
