//! Help texts of `craft compare`, with lists and defaults from the comparison's own tables.

use craft_compare::{
    Ablation, FACT_LOSS, PAIRS, QUICK_SEEDS, SEARCH_SEEDS, SEEDS, default_methods, methods as all,
};

fn joined<'a>(names: impl Iterator<Item = &'a str>, by: &str) -> String {
    names.collect::<Vec<_>>().join(by)
}

pub(super) fn methods() -> String {
    format!(
        "Methods, separated by commas: {} [default: {}]",
        joined(all().map(|m| m.name), ", "),
        joined(default_methods(false).iter().map(|m| m.name), ",")
    )
}

pub(super) fn ablations() -> String {
    let names = Ablation::all().iter().map(Ablation::name);
    format!("Variants of CRAFT in the place of methods: {}", joined(names, ", "))
}

pub(super) fn seeds() -> String {
    format!(
        "Number of seeds, counted from the recipe's, or the seeds themselves as 1,2,3 [default: {SEEDS}]"
    )
}

pub(super) fn search_seeds() -> String {
    format!(
        "How many of the first seeds choose each method's learning rate and length [default: {SEARCH_SEEDS}]"
    )
}

pub(super) fn fact_loss() -> String {
    format!(
        "Share of the facts that settings may lose by the checker to be chosen; inf: any [default: {FACT_LOSS}]"
    )
}

pub(super) fn pairs() -> String {
    format!("Pairs from the embedded world's annotators, for each seed [default: {PAIRS}]")
}

pub(super) fn quick() -> String {
    let methods = joined(default_methods(true).iter().map(|m| m.name), ", ");
    format!(
        "{QUICK_SEEDS} seeds, the methods {methods}, and no search of learning rates, for a first look"
    )
}
