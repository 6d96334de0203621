//! Wordings by a language model, each prompt asked for once in a run.

use std::time::Duration;

use craft_core::Prompt;
use craft_core::recipe::ExpandSection;
use craft_external::{INSTRUCTIONS, ServerOptions, Wording, WordingModel, WordingOptions};
use craft_store::DroppedItem;
use craft_store::hash::sha256_bytes;

use crate::cache::WordingCache;
use crate::error::{PipelineError, Result};
use crate::external::usage;
use crate::stages::Run;

/// Wordings of all prompts.
pub(crate) struct Found {
    /// By prompt; empty where no answer could be used.
    pub(crate) wordings: Vec<Vec<String>>,
    /// Prompts without wordings.
    pub(crate) dropped: Vec<DroppedItem>,
    /// Answers that were refused.
    pub(crate) malformed: usize,
}

/// The model that a recipe names; nothing is asked yet.
///
/// # Errors
/// When address or key cannot be used.
pub(crate) fn model(section: &ExpandSection) -> Result<WordingModel> {
    let seconds = section.timeout_seconds.unwrap_or(ExpandSection::TIMEOUT_SECONDS);
    let server = ServerOptions {
        url: section.base_url.clone().unwrap_or_default(),
        allow_remote: section.allow_remote,
        api_key_env: section.api_key_env.clone(),
        timeout: Duration::from_secs_f64(seconds),
        retries: section.retries.unwrap_or(ExpandSection::RETRIES),
    };
    WordingModel::new(&server, options(section)).map_err(usage("expand.base_url"))
}

fn options(section: &ExpandSection) -> WordingOptions {
    WordingOptions {
        model: section.model.clone().unwrap_or_default(),
        temperature: section.temperature.unwrap_or(1.0),
        variants: section.variants,
    }
}

/// Words all prompts; what `cache/wordings.jsonl` knows is not asked again, so that a run can be done
/// again without its server.
pub(crate) fn run(run: &Run<'_>, prompts: &[&Prompt]) -> Result<Found> {
    let section = &run.recipe.expand;
    let WordingOptions { model: name, temperature, variants } = options(section);
    let settings = (name, temperature, variants, INSTRUCTIONS);
    let settings = sha256_bytes(serde_json::to_string(&settings).unwrap_or_default());
    let mut cache = WordingCache::open(run.folder, &run.context)?;
    let mut found = Found { wordings: Vec::new(), dropped: Vec::new(), malformed: 0 };
    let mut model_of_server = None;
    run.context.progress.start("expand", prompts.len() as u64, "prompts");
    for prompt in prompts {
        let text = prompt.text.as_str();
        if let Some(known) = cache.get(text, &settings) {
            found.wordings.push(known.clone());
            run.context.progress.advance(1);
            continue;
        }
        let server = match &model_of_server {
            Some(server) => server,
            None => model_of_server.insert(model(section)?),
        };
        let mut last = String::new();
        let mut wordings = Vec::new();
        for _ in 0..=section.retries.unwrap_or(ExpandSection::RETRIES) {
            run.context.check()?;
            match server.ask(text).map_err(|reason| PipelineError::WordingModel { reason })? {
                Wording::Good(list) => {
                    cache.put(text, &settings, list.clone())?;
                    wordings = list;
                    break;
                }
                Wording::Malformed(reason) => {
                    found.malformed += 1;
                    last = reason;
                }
            }
        }
        if wordings.is_empty() {
            let reason = format!("no answer of the language model could be used; the last: {last}");
            found.dropped.push(DroppedItem { id: prompt.id.to_string(), reason });
        }
        found.wordings.push(wordings);
        run.context.progress.advance(1);
    }
    if found.dropped.len() == prompts.len()
        && let Some(first) = found.dropped.first()
    {
        return Err(PipelineError::WordingModel { reason: first.reason.clone() });
    }
    Ok(found)
}
