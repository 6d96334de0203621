//! What a comparison will do, checked before its first expensive step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use craft_core::Recipe;
use craft_core::recipe::{Method as RunMethod, Precision, PromptSource, TrainMode};
use craft_store::Stage;

use super::Options;
use super::ablations::{self, Part, Variant};
use super::methods::{self, Data, Method};
use super::pairs;
use crate::context::Context;
use crate::error::{PipelineError, Result};
use crate::rewards::RunReward;
use crate::run::Plan as RunPlan;

const SEEDS: usize = 5;
const QUICK_SEEDS: usize = 2;
const PAIRS: usize = 4000;
const QUICK_PAIRS: usize = 2000;
/// Prompts that are drawn along training, one picture each.
const CURVE_PROMPTS: usize = 48;
/// Prompts on which learning rate and length are chosen, one picture each.
const SEARCH_PROMPTS: usize = 64;
/// Seeds that choose the settings.
const SEARCH_SEEDS: usize = 2;
/// The share of facts that settings may lose to be chosen.
const FACT_LOSS: f64 = 0.01;

/// A method with its settings in this comparison.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) method: &'static Method,
    /// What it changes of the recipe.
    pub(super) overrides: Vec<String>,
    /// The candidates that it may see.
    pub(super) part: Part,
    /// Its folder below that of a seed.
    pub(super) stage: Stage,
    /// The folder of its search.
    pub(super) search: Stage,
}

impl Entry {
    fn new(variant: Variant, recipe: &Recipe) -> Result<Self> {
        let Variant { name, method, mut overrides, part } = variant;
        overrides.extend(method.overrides(recipe)?);
        let stage = |kind: &str, folder: &str| {
            Stage::named(format!("{kind} {name}"), format!("{folder}/{name}"))
        };
        let (tune, search) = (stage("tune", "methods"), stage("search", "search"));
        let entry = Self { overrides, part, method, stage: tune, search, name };
        // A variant that the recipe cannot have is refused now.
        let own = entry.recipe(recipe)?;
        if own.rounds.count > 1 && own.train.mode == TrainMode::Lora {
            return Err(PipelineError::Usage(format!(
                "rounds.count = {}: rounds are compared with full training only; set train.mode = \"full\", or leave --rounds out",
                own.rounds.count
            )));
        }
        Ok(entry)
    }

    /// Whether it trains with what the search chose for `craft`: several rounds are the same method.
    pub(super) fn takes_from_craft(&self) -> bool {
        self.overrides.iter().any(|o| o.starts_with("rounds.count="))
    }

    /// Whether it has settings of its own to search for.
    pub(super) fn searches(&self) -> bool {
        !self.takes_from_craft() && self.method.data.guidance().is_none()
    }

    /// Its longest training, in steps.
    fn steps(&self, recipe: &Recipe) -> usize {
        let own = self.recipe(recipe).map_or(recipe.train.steps, |recipe| recipe.train.steps);
        own * self.method.length
    }

    /// The recipe of a seed as this method has it.
    pub(super) fn recipe(&self, recipe: &Recipe) -> Result<Recipe> {
        Ok(Recipe::parse(&recipe.to_toml(), &self.overrides)?)
    }
}

/// Methods are compared by training the denoiser in f32; what a recipe asks for beside that is refused, not
/// ignored.
fn plain_training(recipe: &Recipe) -> Result<()> {
    let train = &recipe.train;
    let lora = train.mode == TrainMode::Lora;
    let other = [
        ("train.lora.text_encoders = true", lora && train.lora.text_encoders),
        ("train.precision = \"bf16\"", train.precision != Precision::F32),
        ("train.gradient_checkpointing = true", train.gradient_checkpointing),
        ("model.lora", !recipe.model.lora.is_empty()),
        ("train.method (give --methods)", train.method != RunMethod::Craft),
        ("rounds.count (give --rounds)", recipe.rounds.count > 1),
        ("stop.every", recipe.stop.every > 0),
    ];
    match other.into_iter().find(|(_, asked)| *asked) {
        Some((key, _)) => Err(PipelineError::Usage(format!(
            "{key}: a comparison trains the denoiser in f32, once and to the end; expected a recipe without it (--set can change it)"
        ))),
        None => Ok(()),
    }
}

/// Everything that is decided before the first step.
pub(super) struct Plan {
    pub(super) recipe: Recipe,
    pub(super) seeds: Vec<u64>,
    pub(super) entries: Vec<Entry>,
    pub(super) model_dir: PathBuf,
    pub(super) rewards: Vec<RunReward>,
    /// Learning rates that every method tries.
    pub(super) learning_rates: Vec<f64>,
    /// How many of the first seeds choose the settings; none where there are no prompts for it, or no time.
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
    pub(super) fn new(
        recipe_text: &str,
        overrides: &[String],
        base: &Path,
        options: &Options,
        context: &Context<'_>,
    ) -> Result<Self> {
        let recipe = Recipe::parse(recipe_text, overrides)?;
        plain_training(&recipe)?;
        let pocket = recipe.prompts.source == PromptSource::Pocket;
        let seeds = seeds(options, recipe.seed)?;
        let rate = recipe.train.learning_rate;
        let learning_rates = match options.learning_rates.as_slice() {
            [] => vec![rate / 3.0, rate, 3.0 * rate],
            given => given.to_vec(),
        };
        if let Some(wrong) = learning_rates.iter().find(|r| !(**r > 0.0 && **r <= 1.0)) {
            return Err(PipelineError::Usage(format!(
                "--learning-rates: {wrong} is not a learning rate; expected numbers above 0, at most 1"
            )));
        }
        let pairs = options.pairs.unwrap_or(if options.quick { QUICK_PAIRS } else { PAIRS });
        if pairs == 0 {
            return Err(PipelineError::Usage("--pairs is 0: expected at least 1".to_owned()));
        }
        let search_seeds = match options.search_seeds {
            Some(n) if n == 0 || n > seeds.len() => {
                return Err(PipelineError::Usage(format!(
                    "--search-seeds {n}: expected 1 to {}, the number of seeds",
                    seeds.len()
                )));
            }
            given => given.unwrap_or(SEARCH_SEEDS.min(seeds.len())),
        };
        let fact_loss = options.fact_loss.unwrap_or(FACT_LOSS);
        if fact_loss.is_nan() || fact_loss < 0.0 {
            return Err(PipelineError::Usage(format!(
                "--fact-loss {fact_loss}: expected a share of the facts, 0 to 1 (inf: any)"
            )));
        }
        let asked = options.fact_loss.is_some()
            || options.search_seeds.is_some()
            || !options.learning_rates.is_empty();
        if asked && !pocket {
            return Err(PipelineError::Usage(
                "--learning-rates, --search-seeds and --fact-loss: settings are searched on the embedded world's own prompts, which prompts from files lack; set train.learning_rate"
                    .to_owned(),
            ));
        }
        let search_seeds = match pocket && !options.quick && options.ablation.is_none() {
            true => search_seeds,
            false => 0,
        };
        let run = RunPlan::new(&recipe, base, None, context)?;
        let (train, eval) = run.check(&recipe, base, None, context)?;
        let mut entries = Vec::new();
        for variant in variants(options, train, recipe.expand.variants)? {
            variant.method.check(&recipe, pocket)?;
            entries.push(Entry::new(variant, &recipe)?);
        }
        if entries.iter().any(|entry| entry.method.data.annotated()) {
            pairs::check(&recipe, base, &run.model.dir, context)?;
        }
        if let Some(count) = options.rounds {
            if !(2..=20).contains(&count) {
                return Err(PipelineError::Usage(format!(
                    "--rounds {count}: expected 2 to 20 rounds, which are compared with the one of `craft`"
                )));
            }
            let overrides =
                vec![format!("rounds.count={count}"), "rounds.same_budget=true".to_owned()];
            let craft = Variant::of(methods::of_names(&["craft".to_owned()])?[0]);
            let name = format!("craft-{count}-rounds");
            entries.push(Entry::new(Variant { name, overrides, ..craft }, &recipe)?);
        }
        let held_out = run.rewards.iter().find(|r| !r.trained_on);
        let decisive = held_out.or(run.rewards.first()).map_or(String::new(), |r| r.name.clone());
        if held_out.is_none() {
            context.progress.note(
                "no reward is held out, so methods are compared on what they train on; add a [[rewards]] with role = \"held-out\"",
            );
        }
        Ok(Self {
            seeds,
            entries,
            learning_rates,
            search_seeds,
            fact_loss,
            pairs,
            train_prompts: train,
            eval_prompts: eval,
            curve_prompts: CURVE_PROMPTS.min(eval),
            search_prompts: SEARCH_PROMPTS,
            decisive,
            model_dir: run.model.dir,
            rewards: run.rewards,
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

    /// Steps at which a method is looked at: early and then ever more rarely.
    pub(super) fn points(&self, entry: &Entry) -> Vec<usize> {
        let steps = entry.steps(&self.recipe);
        if steps == 0 {
            return Vec::new();
        }
        // A method that draws as it goes is looked at between its iterations.
        let whole = match entry.method.data {
            Data::Prompts => self.recipe.generate.steps,
            _ => 1,
        };
        let mut points: Vec<usize> = [12, 6, 3, 2, 1]
            .iter()
            .map(|part| (steps / part).max(1).next_multiple_of(whole))
            .collect();
        points.dedup();
        points
    }
}

/// The methods that are named, the variants of an ablation, or the default methods.
fn variants(options: &Options, prompts: usize, wordings: usize) -> Result<Vec<Variant>> {
    if let Some(name) = &options.ablation {
        return ablations::variants(name, prompts, wordings);
    }
    let default = if options.quick { methods::QUICK } else { methods::DEFAULT };
    let names: Vec<String> = if options.methods.is_empty() {
        default.iter().map(|n| (*n).to_owned()).collect()
    } else {
        options.methods.clone()
    };
    Ok(methods::of_names(&names)?.into_iter().map(Variant::of).collect())
}

/// The seeds: so many from the recipe's on, or those given.
fn seeds(options: &Options, first: u64) -> Result<Vec<u64>> {
    let wrong = |text: &str| {
        PipelineError::Usage(format!(
            "--seeds {text}: expected a number of seeds from 1 to 1000, or seeds separated by commas such as 1,2,3"
        ))
    };
    let count = match options.seeds.as_deref() {
        None => {
            if options.quick {
                QUICK_SEEDS
            } else {
                SEEDS
            }
        }
        Some(text) if text.contains(',') => {
            let mut found: Vec<u64> = Vec::new();
            for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
                let seed: u64 = part.parse().map_err(|_| wrong(text))?;
                if found.contains(&seed) {
                    return Err(PipelineError::Usage(format!(
                        "--seeds {text}: {seed} is repeated, which would count one result twice; name each seed once"
                    )));
                }
                found.push(seed);
            }
            return if found.is_empty() { Err(wrong(text)) } else { Ok(found) };
        }
        Some(text) => text
            .trim()
            .parse()
            .ok()
            .filter(|n| (1..=1000).contains(n))
            .ok_or_else(|| wrong(text))?,
    };
    Ok((0..count as u64).map(|i| first + i).collect())
}
