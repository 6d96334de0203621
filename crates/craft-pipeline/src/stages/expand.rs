//! Stage 1: richer wordings of the training prompts.

use std::collections::BTreeMap;

use craft_core::expand::{ExpansionFile, Templates};
use craft_core::prompt_file;
use craft_core::recipe::ExpandKind;
use craft_core::{Key, Prompt, Split, Wording};
use craft_store::hash::sha256_bytes;
use craft_store::{Manifest, Stage, jsonl};

use crate::error::{PipelineError, Result};
use crate::stages::{Outcome, Run, inputs, wording};

/// Expands every training prompt.
pub(crate) fn run(run: &Run<'_>, prompts_stage: &Manifest) -> Result<Manifest> {
    let section = &run.recipe.expand;
    let source = source(run)?;
    let mut inputs = inputs(&[prompts_stage]);
    inputs.insert("wordings".to_owned(), sha256_bytes(&source.1));
    run.stage(Stage::EXPAND, &(section, run.recipe.seed), inputs, |writer| {
        let mut dropped = Vec::new();
        let mut malformed = None;
        let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
        let train: Vec<&Prompt> = prompts.iter().filter(|p| p.split == Split::Train).collect();
        let expanded = match section.kind {
            ExpandKind::Template => {
                let templates = Templates::parse(&source.1)?;
                let key = Key::new(run.recipe.seed).stage("expand");
                train
                    .iter()
                    .map(|p| {
                        templates.expand(&p.text, section.variants, &key.clone().prompt(&p.id))
                    })
                    .collect::<std::result::Result<Vec<_>, _>>()?
            }
            ExpandKind::Openai => {
                let found = wording::run(run, &train)?;
                dropped = found.dropped;
                malformed = Some(found.malformed);
                found.wordings
            }
            ExpandKind::File => ExpansionFile::parse(&source.1)
                .and_then(|file| file.expand(&train, section.variants))
                .map_err(|error| PipelineError::Expansion {
                    path: source.0.clone(),
                    source: error,
                })?,
        };
        let mut rows = Vec::new();
        for (prompt, wordings) in train.iter().zip(expanded) {
            let all = std::iter::once(prompt.text.clone()).chain(wordings);
            rows.extend(all.enumerate().map(|(variant, text)| Wording {
                prompt_id: prompt.id.clone(),
                variant: variant as u32,
                text,
            }));
        }
        jsonl::write(&writer.join("expanded.jsonl"), &rows)?;
        let n = rows.len() - train.len();
        let unworded = dropped.len();
        let mut outcome = Outcome { dropped, ..Outcome::default() }
            .count("prompts", train.len())
            .count("wordings", n)
            .say(format!("{n} wordings of {} prompts", train.len()));
        if let Some(malformed) = malformed {
            outcome = outcome.count("malformed_answers", malformed).count("unworded", unworded);
            outcome.message += &format!(
                "; {malformed} malformed answers refused, {unworded} prompts without wordings"
            );
        }
        Ok(outcome)
    })
}

/// Where the wordings come from, and its text.
fn source(run: &Run<'_>) -> Result<(std::path::PathBuf, String)> {
    let section = &run.recipe.expand;
    let path = match section.kind {
        ExpandKind::Template => match section.templates.as_str() {
            "pocket" => {
                let world = run.context.world("expand.templates")?;
                return Ok(("pocket".into(), world.templates().to_owned()));
            }
            "general" => {
                return Ok(("general".into(), craft_core::expand::GENERAL_TEMPLATES.to_owned()));
            }
            path => run.base.join(path),
        },
        ExpandKind::Openai => {
            return Ok(("language model".into(), craft_external::INSTRUCTIONS.to_owned()));
        }
        ExpandKind::File => match &section.file {
            Some(path) => run.base.join(path),
            None => {
                return Err(PipelineError::Usage(
                    "expand.kind is \"file\": give the file with expand.file = \"…\"".to_owned(),
                ));
            }
        },
    };
    let input = |message: String| PipelineError::Input {
        path: path.clone(),
        message: format!("the wordings cannot be read: {message}"),
    };
    let bytes = craft_store::input::read(&path, prompt_file::MAX_BYTES)
        .map_err(|error| input(error.without_path()))?;
    let text = prompt_file::decode(bytes).map_err(|error| input(error.to_string()))?;
    Ok((path, text))
}

/// Wordings by prompt, in order of their variants.
pub(crate) fn read(run: &Run<'_>) -> Result<BTreeMap<String, Vec<String>>> {
    let rows: Vec<Wording> = jsonl::read(&run.path("expanded/expanded.jsonl"))?;
    let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in rows {
        out.entry(row.prompt_id.as_str().to_owned()).or_default().push(row.text);
    }
    Ok(out)
}
