//! Arguments of `craft compare`.

use std::path::PathBuf;

use clap::Args;
use craft_compare::{Ablation, Method, Seeds, method};

use super::compare_help;

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The recipe that all methods share; paths in it are relative to its folder
    #[arg(value_name = "RECIPE.toml")]
    pub(crate) recipe: PathBuf,
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = method, help = compare_help::methods())]
    pub(crate) methods: Vec<&'static Method>,
    #[arg(long, value_name = "NAME", conflicts_with = "methods", value_parser = Ablation::named, help = compare_help::ablations())]
    pub(crate) ablation: Option<&'static Ablation>,
    #[arg(long, value_name = "N|LIST", help = compare_help::seeds())]
    pub(crate) seeds: Option<Seeds>,
    /// Learning rates that every method tries [default: the recipe's, a third and three times it]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["quick", "ablation"])]
    pub(crate) learning_rates: Vec<f64>,
    #[arg(long, value_name = "N", conflicts_with_all = ["quick", "ablation"], help = compare_help::search_seeds())]
    pub(crate) search_seeds: Option<usize>,
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["quick", "ablation"], help = compare_help::fact_loss())]
    pub(crate) fact_loss: Option<f64>,
    #[arg(long, value_name = "N", help = compare_help::pairs())]
    pub(crate) pairs: Option<usize>,
    /// Compare also CRAFT in so many rounds, each drawing from the model of the one before, within
    /// the budget of one round
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,
    #[arg(long, help = compare_help::quick())]
    pub(crate) quick: bool,
    /// Folder of the comparison [default: runs/compare-<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Override a key of the recipe, such as train.steps=60
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check everything, measure one pass of each kind of work, and print the plan with its cost, but
    /// begin nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}
