//! Stage 4: composite reward filtering, group advantages, budget; and the random control.

use craft_core::select::{
    ScoreTable, SelectError, SelectOptions, choose, random_control_of, shortfall,
};
use craft_core::{Key, ScoreRow};
use craft_store::{Manifest, Stage, jsonl};

use crate::error::Result;
use crate::stages::{Outcome, Run, inputs};

/// In the stage's folder where fewer samples were selected than asked for: why, and what to loosen.
pub(crate) const SHORTFALL: &str = "shortfall.json";

/// Selects what is trained on.
pub(crate) fn run(run: &Run<'_>, scored: &Manifest) -> Result<Manifest> {
    let recipe = run.recipe;
    let config = (&recipe.select, &recipe.rewards, &recipe.control, recipe.seed);
    run.stage(Stage::SELECT, &config, inputs(&[scored]), |writer| {
        let options = recipe.select_options();
        let table = read(run, &options)?;
        let chosen = match choose(&table, &options) {
            Ok(chosen) => chosen,
            Err(error) => {
                if let SelectError::NothingSelected { funnel, .. } = &error {
                    let by = funnel.passed_by.iter().map(|(name, n)| format!("{name} {n}"));
                    run.context.progress.note(&format!(
                        "funnel: {} candidates; passed by reward: {}; passed all: {}",
                        funnel.candidates,
                        by.collect::<Vec<_>>().join(", "),
                        funnel.passed
                    ));
                }
                return Err(error.into());
            }
        };
        jsonl::write(&writer.join("selection.jsonl"), chosen.rows())?;
        let funnel = &chosen.funnel;
        craft_store::manifest::write_json(&writer.join("funnel.json"), funnel)?;
        if let Some(short) = shortfall(&chosen) {
            run.context.progress.note(&format!("warning: {}", short.text));
            craft_store::manifest::write_json(&writer.join(SHORTFALL), &short)?;
        }
        if recipe.control.enabled {
            let key = Key::new(recipe.seed).stage("control");
            let control = random_control_of(funnel.selected, &key, &table)?;
            jsonl::write(&writer.join("control.jsonl"), &control)?;
        }
        let mut outcome = Outcome::default()
            .count("candidates", funnel.candidates)
            .count("passed", funnel.passed)
            .count("selected", funnel.selected)
            .count("asked", options.max_samples);
        for (name, n) in &funnel.passed_by {
            outcome = outcome.count(&format!("passed.{name}"), *n);
        }
        Ok(outcome.say(format!(
            "{} of {} candidates pass the filter; {} of them, from {} prompts, are trained on",
            funnel.passed, funnel.candidates, funnel.selected, funnel.selected_prompts
        )))
    })
}

/// The scores of all candidates: a number for each reward, read one row at a time.
fn read(run: &Run<'_>, options: &SelectOptions) -> Result<ScoreTable> {
    let mut table = ScoreTable::new(options.rewards.iter().map(|reward| reward.name.clone()));
    for row in jsonl::rows::<ScoreRow>(&run.path("rewards/rewards.jsonl"))? {
        table.push(&row?);
    }
    Ok(table)
}
