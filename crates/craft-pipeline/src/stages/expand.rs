//! Stage 1: richer wordings of the training prompts.

use std::path::PathBuf;

use craft_core::expand::{ExpansionFile, Templates};
use craft_core::prompt_file;
use craft_core::recipe::ExpandKind;
use craft_core::{Key, Prompt, Split, Wording};
use craft_store::hash::sha256_bytes;
use craft_store::{Manifest, Stage, jsonl};

use crate::error::{PipelineError, Result};
use crate::stages::wording::Asker;
use crate::stages::{Outcome, Run, inputs};

/// Expands every training prompt.
pub(crate) fn run(run: &Run<'_>, prompts_stage: &Manifest) -> Result<Manifest> {
    let section = &run.recipe.expand;
    let source = source(run)?;
    let mut inputs = inputs(&[prompts_stage]);
    inputs.insert("wordings".to_owned(), sha256_bytes(&source.1));
    run.stage(Stage::EXPAND, &(section, run.recipe.seed), inputs, |writer| {
        let mut expander = Expander::new(run, &source)?;
        let mut rows = jsonl::Writer::create(&writer.join(ROWS))?;
        let (mut prompts, mut n) = (0, 0);
        each_prompt(run, |prompt| {
            let wordings = expander.wordings(prompts, &prompt)?;
            (prompts, n) = (prompts + 1, n + wordings.len());
            let all = std::iter::once(prompt.text).chain(wordings);
            for (variant, text) in all.enumerate() {
                let (prompt_id, variant) = (prompt.id.clone(), variant as u32);
                rows.put(&Wording { prompt_id, variant, text })?;
            }
            Ok(())
        })?;
        let mut outcome = Outcome::default()
            .count("prompts", prompts)
            .count("wordings", n)
            .say(format!("{n} wordings of {prompts} prompts"));
        if let Expander::Model(asker) = expander {
            let (malformed, dropped) = asker.finish()?;
            outcome =
                outcome.count("malformed_answers", malformed).count("unworded", dropped.len());
            outcome.message += &format!(
                "; {malformed} malformed answers refused, {} prompts without wordings",
                dropped.len()
            );
            outcome.dropped = dropped;
        }
        rows.commit()?;
        Ok(outcome)
    })
}

const ROWS: &str = "expanded.jsonl";

/// Calls with each training prompt in their order.
fn each_prompt(run: &Run<'_>, mut take: impl FnMut(Prompt) -> Result<()>) -> Result<()> {
    for prompt in jsonl::rows::<Prompt>(&run.path("prompts/prompts.jsonl"))? {
        let prompt = prompt?;
        if prompt.split == Split::Train {
            take(prompt)?;
        }
    }
    Ok(())
}

/// What words prompts, one after the other.
enum Expander<'a> {
    Template {
        templates: Templates,
        variants: usize,
        key: Key,
    },
    Model(Box<Asker<'a>>),
    /// Wordings by the place of their prompt.
    File(Vec<Vec<String>>),
}

impl<'a> Expander<'a> {
    fn new(run: &'a Run<'_>, (path, text): &(PathBuf, String)) -> Result<Self> {
        let section = &run.recipe.expand;
        Ok(match section.kind {
            ExpandKind::Template => {
                let key = Key::new(run.recipe.seed).stage("expand");
                let templates = Templates::parse(text)?;
                Self::Template { templates, variants: section.variants, key }
            }
            ExpandKind::Openai => {
                let mut prompts = 0;
                each_prompt(run, |_| {
                    prompts += 1;
                    Ok(())
                })?;
                Self::Model(Box::new(Asker::new(run, prompts)?))
            }
            ExpandKind::File => {
                // The file is in memory, and so are the prompts that its lines are looked up in.
                let mut prompts = Vec::new();
                each_prompt(run, |prompt| {
                    prompts.push(prompt);
                    Ok(())
                })?;
                let prompts: Vec<&Prompt> = prompts.iter().collect();
                let found = ExpansionFile::parse(text)
                    .and_then(|file| file.expand(&prompts, section.variants))
                    .map_err(|source| PipelineError::Expansion { path: path.clone(), source })?;
                Self::File(found)
            }
        })
    }

    /// The wordings of the training prompt at a place.
    fn wordings(&mut self, place: usize, prompt: &Prompt) -> Result<Vec<String>> {
        match self {
            Self::Template { templates, variants, key } => {
                Ok(templates.expand(&prompt.text, *variants, &key.clone().prompt(&prompt.id))?)
            }
            Self::Model(asker) => asker.wordings(prompt),
            Self::File(all) => Ok(all.get_mut(place).map(std::mem::take).unwrap_or_default()),
        }
    }
}

/// Where the wordings come from, and its text.
fn source(run: &Run<'_>) -> Result<(PathBuf, String)> {
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

/// Calls with each wording: those of a prompt together, in order of their variants, and prompts in their order.
///
/// # Errors
/// When a row cannot be read, and those of `take`.
pub(crate) fn each(run: &Run<'_>, mut take: impl FnMut(Wording) -> Result<()>) -> Result<()> {
    for row in jsonl::rows(&run.path("expanded").join(ROWS))? {
        take(row?)?;
    }
    Ok(())
}
