//! Stage 0: the prompts of both splits.

use std::collections::BTreeMap;
use std::path::Path;

use craft_core::prompt::check_prompts;
use craft_core::prompt_file::PromptSet;
use craft_core::recipe::{PromptSource, PromptsSection};
use craft_core::{Prompt, PromptId, Recipe, Split};
use craft_store::hash::sha256_bytes;
use craft_store::{Manifest, Stage, jsonl};

use crate::context::Context;
use crate::error::{PipelineError, Result};
use crate::prompt_files;
use crate::stages::{Outcome, Run};

/// Reads or makes the prompts.
pub(crate) fn run(run: &Run<'_>) -> Result<Manifest> {
    let section = &run.recipe.prompts;
    let (prompts, notes) = load(run.base, run.recipe, &run.context)?;
    check_prompts(&prompts, true)?;
    let text = serde_json::to_string(&prompts).unwrap_or_default();
    let inputs = BTreeMap::from([("prompts".to_owned(), sha256_bytes(text))]);
    for note in notes {
        run.context.progress.note(&note);
    }
    run.stage(Stage::PROMPTS, section, inputs, |writer| {
        jsonl::write(&writer.join("prompts.jsonl"), &prompts)?;
        let count = |split| prompts.iter().filter(|p| p.split == split).count();
        let (train, eval) = (count(Split::Train), count(Split::Eval));
        Ok(Outcome::default()
            .count("train", train)
            .count("eval", eval)
            .say(format!("{train} to train on, {eval} to evaluate on")))
    })
}

/// The prompts that the recipe names.
pub(crate) fn load(
    base: &Path,
    recipe: &Recipe,
    context: &Context<'_>,
) -> Result<(Vec<Prompt>, Vec<String>)> {
    let section = &recipe.prompts;
    match section.source {
        PromptSource::Pocket => {
            let world = context.world("prompts.source")?;
            let train = section.train_count.unwrap_or(PromptsSection::POCKET_TRAIN_COUNT);
            let eval = section.eval_count.unwrap_or(PromptsSection::POCKET_EVAL_COUNT);
            let part = section.eval.as_deref().unwrap_or("eval");
            let mut prompts = world.prompts(recipe.seed, "train", train).unwrap_or_default();
            let found = world.prompts(recipe.seed, part, eval).filter(|_| part != "train");
            prompts.extend(found.ok_or_else(|| {
                PipelineError::Usage(format!(
                    "prompts.eval = \"{part}\": expected \"eval\" or \"select\" where prompts.source is \"pocket\""
                ))
            })?);
            Ok((number(prompts), Vec::new()))
        }
        PromptSource::File => {
            let mut prompts = Vec::new();
            let mut notes = Vec::new();
            for (key, file, split, limit) in [
                ("prompts.train", &section.train, Split::Train, section.train_count),
                ("prompts.eval", &section.eval, Split::Eval, section.eval_count),
            ] {
                let Some(file) = file else {
                    return Err(PipelineError::Usage(format!(
                        "{key} is missing: expected the path of a file with one prompt a line"
                    )));
                };
                let path = base.join(file);
                let PromptSet { mut entries, blank, repeated, comments } =
                    prompt_files::read(&path, key)?;
                let left_out: Vec<String> =
                    [(blank, "blank"), (repeated, "repeated"), (comments, "comment")]
                        .into_iter()
                        .filter(|(n, _)| *n > 0)
                        .map(|(n, what)| format!("{n} {what}"))
                        .collect();
                if blank + repeated > 0 {
                    let left_out = left_out.join(", ");
                    notes.push(format!("{}: left out lines: {left_out}", path.display()));
                }
                entries.truncate(limit.unwrap_or(usize::MAX));
                prompts.extend(entries.into_iter().map(|entry| Prompt {
                    category: entry.category,
                    ..Prompt::new(PromptId::from_index(0), entry.text, split)
                }));
            }
            Ok((number(prompts), notes))
        }
    }
}

fn number(mut prompts: Vec<Prompt>) -> Vec<Prompt> {
    for (i, prompt) in prompts.iter_mut().enumerate() {
        prompt.id = PromptId::from_index(i);
    }
    prompts
}
