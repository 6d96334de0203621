//! What to compare: the options of the command line, and what they come to for a recipe.

use std::str::FromStr;

use craft_core::Recipe;
use craft_core::recipe::PromptSource;
use craft_train::methods::Method;

use super::ablations::Ablation;
use super::pipeline::{PipelineError, Result};

/// Seeds of a comparison that names none.
pub const SEEDS: usize = 5;
/// The same for a first look.
pub const QUICK_SEEDS: usize = 2;
/// Annotated pairs for each seed.
pub const PAIRS: usize = 4000;
const QUICK_PAIRS: usize = 2000;
/// Seeds that choose the settings.
pub const SEARCH_SEEDS: usize = 2;
/// The share of facts that settings may lose to be chosen.
pub const FACT_LOSS: f64 = 0.01;
/// The most seeds that a number may ask for.
const MOST_SEEDS: usize = 1000;
/// The largest seed, which is the largest integer of a recipe.
const LARGEST_SEED: u64 = i64::MAX as u64;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The methods; empty: a default set.
    pub methods: Vec<&'static Method>,
    /// An ablation of CRAFT, in the place of methods.
    pub ablation: Option<&'static Ablation>,
    /// The seeds; `None`: five from the recipe's on.
    pub seeds: Option<Seeds>,
    /// Learning rates that every method tries; empty: a third of the recipe's, the recipe's, three times it.
    pub learning_rates: Vec<f64>,
    /// How many of the first seeds choose the settings; `None`: two, or as many as there are.
    pub search_seeds: Option<usize>,
    /// The share of facts that settings may lose to be chosen; `None`: 0.01.
    pub fact_loss: Option<f64>,
    /// Annotated pairs for each seed.
    pub pairs: Option<usize>,
    /// Fewer seeds and methods, and no search.
    pub quick: bool,
    /// CRAFT in so many rounds, within the budget of one, as a method more.
    pub rounds: Option<usize>,
}

/// Seeds as they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seeds {
    /// So many, counted from the recipe's.
    Count(usize),
    /// These, each once.
    List(Vec<u64>),
}

impl FromStr for Seeds {
    type Err = PipelineError;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            PipelineError::Usage(format!(
                "expected a number of seeds from 1 to {MOST_SEEDS}, or seeds separated by commas such as 1,2,3"
            ))
        };
        if !text.contains(',') {
            let count = text.trim().parse().ok().filter(|n| (1..=MOST_SEEDS).contains(n));
            return count.map(Self::Count).ok_or_else(wrong);
        }
        let mut found: Vec<u64> = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let seed: u64 = part.parse().map_err(|_| wrong())?;
            if seed > LARGEST_SEED {
                return Err(PipelineError::Usage(format!(
                    "{seed} is too large for a seed; expected at most {LARGEST_SEED}"
                )));
            }
            if found.contains(&seed) {
                return Err(PipelineError::Usage(format!(
                    "{seed} is repeated, which would count one result twice; name each seed once"
                )));
            }
            found.push(seed);
        }
        if found.is_empty() { Err(wrong()) } else { Ok(Self::List(found)) }
    }
}

/// What the options come to for a recipe.
pub(super) struct Choices {
    pub(super) seeds: Vec<u64>,
    pub(super) learning_rates: Vec<f64>,
    /// How many of the first seeds choose the settings; 0: none are searched.
    pub(super) search_seeds: usize,
    pub(super) fact_loss: f64,
    pub(super) pairs: usize,
}

impl Choices {
    /// # Errors
    /// When an option is out of its range, or the recipe has no prompts for it.
    pub(super) fn of(options: &Options, recipe: &Recipe) -> Result<Self> {
        let seeds = seeds(options, recipe.seed)?;
        let learning_rates = learning_rates(options, recipe.train.learning_rate)?;
        let pairs = options.pairs.unwrap_or(if options.quick { QUICK_PAIRS } else { PAIRS });
        if pairs == 0 {
            return Err(PipelineError::Usage("--pairs is 0: expected at least 1".to_owned()));
        }
        if let Some(count) = options.rounds.filter(|count| !(2..=20).contains(count)) {
            return Err(PipelineError::Usage(format!(
                "--rounds {count}: expected 2 to 20 rounds, which are compared with the one of `craft`"
            )));
        }
        let fact_loss = options.fact_loss.unwrap_or(FACT_LOSS);
        if fact_loss.is_nan() || fact_loss < 0.0 {
            return Err(PipelineError::Usage(format!(
                "--fact-loss {fact_loss}: expected a share of the facts, 0 to 1 (inf: any)"
            )));
        }
        let search_seeds = search_seeds(options, recipe, seeds.len())?;
        Ok(Self { seeds, learning_rates, search_seeds, fact_loss, pairs })
    }
}

/// The seeds: so many from the recipe's on, or those given.
fn seeds(options: &Options, first: u64) -> Result<Vec<u64>> {
    let default = if options.quick { QUICK_SEEDS } else { SEEDS };
    let count = match &options.seeds {
        Some(Seeds::List(seeds)) => return Ok(seeds.clone()),
        Some(Seeds::Count(count)) => *count,
        None => default,
    };
    let seeds: Vec<u64> = (0..count as u64).map(|i| first.saturating_add(i)).collect();
    match seeds.last() {
        Some(last) if *last > LARGEST_SEED => Err(PipelineError::Usage(format!(
            "--seeds: {count} seeds from seed = {first} on pass the largest, {LARGEST_SEED}; set a smaller seed"
        ))),
        _ => Ok(seeds),
    }
}

fn learning_rates(options: &Options, rate: f64) -> Result<Vec<f64>> {
    let rates = match options.learning_rates.as_slice() {
        [] => vec![rate / 3.0, rate, 3.0 * rate],
        given => given.to_vec(),
    };
    match rates.iter().find(|rate| !(**rate > 0.0 && **rate <= 1.0)) {
        Some(wrong) => Err(PipelineError::Usage(format!(
            "--learning-rates: {wrong} is not a learning rate; expected numbers above 0, at most 1"
        ))),
        None => Ok(rates),
    }
}

/// How many of the first of `seeds` seeds choose the settings.
fn search_seeds(options: &Options, recipe: &Recipe, seeds: usize) -> Result<usize> {
    if let Some(n) = options.search_seeds.filter(|n| *n == 0 || *n > seeds) {
        return Err(PipelineError::Usage(format!(
            "--search-seeds {n}: expected 1 to {seeds}, the number of seeds"
        )));
    }
    let pocket = recipe.prompts.source == PromptSource::Pocket;
    let asked = options.fact_loss.is_some()
        || options.search_seeds.is_some()
        || !options.learning_rates.is_empty();
    if asked && !pocket {
        return Err(PipelineError::Usage(
            "--learning-rates, --search-seeds and --fact-loss: settings are searched on the embedded world's own prompts, which prompts from files lack; set train.learning_rate"
                .to_owned(),
        ));
    }
    let searches = pocket && !options.quick && options.ablation.is_none();
    Ok(if searches { options.search_seeds.unwrap_or(SEARCH_SEEDS.min(seeds)) } else { 0 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_list() {
        assert_eq!("3".parse::<Seeds>().unwrap(), Seeds::Count(3));
        assert_eq!(" 4, 2,".parse::<Seeds>().unwrap(), Seeds::List(vec![4, 2]));
        assert_eq!("7,".parse::<Seeds>().unwrap(), Seeds::List(vec![7]));
        for (text, words) in [
            ("0", "from 1 to 1000"),
            ("1001", "from 1 to 1000"),
            ("many", "such as 1,2,3"),
            (",", "such as 1,2,3"),
            ("1,x", "such as 1,2,3"),
            ("1,2,1", "1 is repeated"),
            ("1,9223372036854775808", "too large"),
        ] {
            let error = text.parse::<Seeds>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn seeds_are_counted_from_the_recipes() {
        let of = |seeds, quick, first| seeds_of(seeds, quick, first).unwrap();
        assert_eq!(of(None, false, 7), [7, 8, 9, 10, 11]);
        assert_eq!(of(None, true, 7), [7, 8]);
        assert_eq!(of(Some(Seeds::Count(1)), true, 7), [7]);
        assert_eq!(of(Some(Seeds::List(vec![3, 1])), true, 7), [3, 1]);
        let error = seeds_of(None, true, LARGEST_SEED).unwrap_err().to_string();
        assert!(error.contains("pass the largest"), "{error}");
    }

    fn seeds_of(seeds: Option<Seeds>, quick: bool, first: u64) -> Result<Vec<u64>> {
        super::seeds(&Options { seeds, quick, ..Options::default() }, first)
    }
}
