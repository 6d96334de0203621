//! The methods of preference tuning: what each learns from, what it minimises, and what it needs.
//!
//! A method is added by a file with its `METHODS` and a line of `FILES`.

pub mod awm;
mod craft;
mod ddpo;
pub mod dpo;
mod guidance;
pub mod kto;
pub mod lair;
pub mod mapo;
pub mod nft;
mod raft;
mod ram;
mod random;
mod rwr;
mod sft;
pub mod spo;

use craft_core::Recipe;
use craft_core::recipe::{TrainSection, nearest};
use craft_core::select::group_advantages;

use crate::error::{Result, TrainError};
use crate::objective::{Common, Objective};
use crate::pool::{Chosen, Pool, Units};

/// All files, in the order in which methods are listed.
const FILES: &[&[Method]] = &[
    craft::METHODS,
    random::METHODS,
    sft::METHODS,
    raft::METHODS,
    rwr::METHODS,
    dpo::METHODS,
    kto::METHODS,
    mapo::METHODS,
    lair::METHODS,
    nft::METHODS,
    awm::METHODS,
    ram::METHODS,
    ddpo::METHODS,
    spo::METHODS,
    guidance::METHODS,
];

/// What a method minimises, as a recipe has it.
pub type ObjectiveOf = fn(&TrainSection) -> Box<dyn Objective>;

/// What a method learns from.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    /// The candidates of the run.
    Candidates {
        /// Chooses among them.
        units: fn(&Pool<'_>) -> Result<Units>,
        /// Whether it looks at rewards.
        scored: bool,
        /// Whether it picks or weighs among several candidates of one prompt.
        within_prompt: bool,
    },
    /// Pairs that annotators judged.
    Annotated {
        /// Each picture by itself, liked or not; else in pairs, the preferred one first.
        labels: bool,
    },
    /// The prompts alone: the method draws as it goes.
    Prompts(Drawing),
    /// Nothing: the base model with so many per cent of the evaluation's guidance.
    Guidance(u32),
}

/// How a method that draws as it goes learns from its own steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawing {
    /// DDPO: whole trajectories.
    Trajectories,
    /// SPO: pairs of continuations of one step.
    Continuations,
}

/// A method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name in recipes and on the command line.
    pub name: &'static str,
    /// A line about it.
    pub about: &'static str,
    /// What it learns from.
    pub data: Data,
    /// What it minimises on that.
    pub objective: ObjectiveOf,
    /// Its longest training in a comparison, in multiples of the recipe's steps.
    pub length: usize,
    /// Rewards that filter, by a part of their names; `None`: as the recipe says.
    pub filter: Option<&'static [&'static str]>,
}

/// Methods over preferences start slowly, so they may train for longer.
const LONGER: usize = 4;
/// Advantages count up to this size, as in DiffusionNFT's config.
const ADVANTAGE_LIMIT: f64 = 5.0;

const fn method(
    name: &'static str,
    about: &'static str,
    data: Data,
    objective: ObjectiveOf,
    length: usize,
) -> Method {
    Method { name, about, data, objective, length, filter: None }
}

/// The common form with the keys of the recipe.
fn common(section: &TrainSection) -> Box<dyn Objective> {
    Box::new(Common::of(section))
}

/// Every picture with its advantage in its prompt's group; groups without variance say nothing.
fn advantages(pool: &Pool<'_>, number: impl Fn(f64) -> f64) -> Result<Vec<Chosen>> {
    let advantages = |group: Vec<Chosen>| -> Vec<Chosen> {
        let totals: Vec<f64> = group.iter().map(|c| c.1).collect();
        let found = group_advantages(&totals).unwrap_or_default();
        group.into_iter().zip(found).map(|((id, _), a)| (id, number(a))).collect()
    };
    Ok(pool.groups(true)?.into_iter().flat_map(advantages).collect())
}

/// All methods.
pub fn all() -> impl Iterator<Item = &'static Method> {
    FILES.iter().copied().flatten()
}

/// A method by its name.
///
/// # Errors
/// When there is none of this name; `asked` is the key or flag that named it.
pub fn by_name(name: &str, asked: &str) -> Result<&'static Method> {
    all().find(|method| method.name == name).ok_or_else(|| {
        let names: Vec<&str> = all().map(|method| method.name).collect();
        let near = nearest(name, names.iter().copied())
            .map_or(".".to_owned(), |near| format!("; did you mean `{near}`?"));
        TrainError::Usage(format!(
            "{asked}: there is no method `{name}`{near} Known are {}",
            names.join(", ")
        ))
    })
}

/// The method that a recipe trains with.
///
/// `kto` in a recipe is what a comparison calls `kto-selected`, and always was: a run has no annotators.
///
/// # Errors
/// When there is none of its name, or it is none that a run can train with.
pub fn of_recipe(recipe: &Recipe) -> Result<&'static Method> {
    let name = match recipe.train.method.as_str() {
        "kto" => "kto-selected",
        name => name,
    };
    let method = by_name(name, "train.method")?;
    if method.is_offline() {
        return Ok(method);
    }
    let offline: Vec<&str> = all().filter(|m| m.is_offline()).map(|m| m.name).collect();
    Err(TrainError::Usage(format!(
        "train.method: `{name}` cannot train a run, which has candidates and scores and filters as rewards.NAME.filter says; expected one of {}: `craft compare` runs the others",
        offline.join(", ")
    )))
}

impl Data {
    /// Whether it needs pairs from annotators.
    pub fn annotated(self) -> bool {
        matches!(self, Self::Annotated { .. })
    }

    /// Whether it uses the candidates of the run.
    pub fn drawn(self) -> bool {
        matches!(self, Self::Candidates { .. })
    }

    /// Whether it looks at rewards of candidates.
    pub fn scored(self) -> bool {
        matches!(self, Self::Candidates { scored: true, .. })
    }

    /// Guidance factor of an untrained baseline.
    pub fn guidance(self) -> Option<f64> {
        match self {
            Self::Guidance(percent) => Some(f64::from(percent) / 100.0),
            _ => None,
        }
    }

    /// Whether it picks or weighs among several candidates of one prompt.
    pub fn within_prompt(self) -> bool {
        matches!(self, Self::Candidates { within_prompt: true, .. })
    }

    /// How it draws as it goes, if it does.
    pub fn drawing(self) -> Option<Drawing> {
        match self {
            Self::Prompts(drawing) => Some(drawing),
            _ => None,
        }
    }
}

impl Method {
    /// Whether a run can train with it: candidates and scores are all that it needs, and it filters as the recipe says.
    pub fn is_offline(&self) -> bool {
        self.data.drawn() && self.filter.is_none()
    }

    /// Its objective under a recipe.
    pub fn objective(&self, section: &TrainSection) -> Box<dyn Objective> {
        (self.objective)(section)
    }

    /// Refuses keys of the recipe that it does not take, and too few candidates of a prompt.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self, recipe: &Recipe) -> Result<()> {
        let form = &recipe.train.form;
        if *form != Default::default() && !self.objective(&recipe.train).weighs_timesteps() {
            return Err(TrainError::Usage(format!(
                "train.form: `{}` has a loss of its own, which takes none of these keys; leave [train.form] out, or choose a method of weighted samples such as craft, raft or ram",
                self.name
            )));
        }
        let group = recipe.expand.variants * recipe.generate.samples;
        if self.data.within_prompt() && group < 2 {
            return Err(TrainError::Usage(format!(
                "{}: it compares candidates of one prompt, and there is only {group} (expand.variants = {} × generate.samples = {}); draw at least 2 or leave the method out",
                self.name, recipe.expand.variants, recipe.generate.samples
            )));
        }
        Ok(())
    }

    /// [`Self::check`] for a run, which trains with one method and refuses what that does not take.
    ///
    /// # Errors
    /// Names the key.
    pub fn check_run(&self, recipe: &Recipe) -> Result<()> {
        let weighs = self.objective(&recipe.train).weighs_timesteps();
        if let Some(gamma) = recipe.train.min_snr_gamma.filter(|_| !weighs) {
            return Err(TrainError::Usage(format!(
                "`train.min_snr_gamma` is {gamma}: expected it to be left out with train.method = \"{}\", whose loss has no weights",
                recipe.train.method
            )));
        }
        self.check(recipe)
    }
}

#[cfg(test)]
mod tests;
