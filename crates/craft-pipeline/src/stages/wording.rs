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

/// Asks a language model for wordings; what `cache/wordings.jsonl` knows is not asked again, so that a run can
/// be done again without its server.
pub(crate) struct Asker<'a> {
    run: &'a Run<'a>,
    /// Digest of what an answer depends on beside its prompt.
    settings: String,
    cache: WordingCache,
    /// None as long as nothing was asked.
    server: Option<WordingModel>,
    prompts: usize,
    malformed: usize,
    /// Prompts of which no answer could be used.
    dropped: Vec<DroppedItem>,
}

impl<'a> Asker<'a> {
    /// For so many prompts.
    ///
    /// # Errors
    /// When the cache cannot be read.
    pub(crate) fn new(run: &'a Run<'a>, prompts: usize) -> Result<Self> {
        let WordingOptions { model: name, temperature, variants } = options(&run.recipe.expand);
        let settings = (name, temperature, variants, INSTRUCTIONS);
        let settings = sha256_bytes(serde_json::to_string(&settings).unwrap_or_default());
        let cache = WordingCache::open(run.folder, &run.context)?;
        run.context.progress.start("expand", prompts as u64, "prompts");
        let (server, dropped) = (None, Vec::new());
        Ok(Self { run, settings, cache, server, prompts, malformed: 0, dropped })
    }

    /// The wordings of a prompt; none if no answer could be used.
    ///
    /// # Errors
    /// When the server gives no answer, and when the run was stopped.
    pub(crate) fn wordings(&mut self, prompt: &Prompt) -> Result<Vec<String>> {
        let text = prompt.text.as_str();
        let wordings = match self.cache.get(text, &self.settings) {
            Some(known) => known.clone(),
            None => self.ask(prompt)?,
        };
        self.run.context.progress.advance(1);
        Ok(wordings)
    }

    fn ask(&mut self, prompt: &Prompt) -> Result<Vec<String>> {
        let section = &self.run.recipe.expand;
        let server = match &self.server {
            Some(server) => server,
            None => self.server.insert(model(section)?),
        };
        let text = prompt.text.as_str();
        let mut last = String::new();
        for _ in 0..=section.retries.unwrap_or(ExpandSection::RETRIES) {
            self.run.context.check()?;
            match server.ask(text).map_err(|reason| PipelineError::WordingModel { reason })? {
                Wording::Good(list) => {
                    self.cache.put(text, &self.settings, list.clone())?;
                    if !list.is_empty() {
                        return Ok(list);
                    }
                    break;
                }
                Wording::Malformed(reason) => {
                    self.malformed += 1;
                    last = reason;
                }
            }
        }
        let reason = format!("no answer of the language model could be used; the last: {last}");
        self.dropped.push(DroppedItem { id: prompt.id.to_string(), reason });
        Ok(Vec::new())
    }

    /// How many answers were refused, and the prompts without wordings.
    ///
    /// # Errors
    /// When no prompt has wordings.
    pub(crate) fn finish(self) -> Result<(usize, Vec<DroppedItem>)> {
        match self.dropped.first() {
            Some(first) if self.dropped.len() == self.prompts => {
                Err(PipelineError::WordingModel { reason: first.reason.clone() })
            }
            _ => Ok((self.malformed, self.dropped)),
        }
    }
}
