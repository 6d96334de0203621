//! The embedded world: its models unpacked to a cache folder, its prompts and its checker.

use std::path::{Path, PathBuf};

use craft_core::{Prompt, PromptId, Split};
use craft_pipeline::world::{FactRow, PreferencePair, World};
use craft_pipeline::{PipelineError, Result};
use craft_pocket::world::{self, Annotators, EXPANSION_TEMPLATES, Fact, Population, WorldRng};
use craft_store::hash::sha256_bytes;
use serde_json::Value;

include!(concat!(env!("OUT_DIR"), "/pocket_files.rs"));

/// A folder of pocket models to use instead of the embedded ones, for those who build their own.
const OVERRIDE: &str = "CRAFT_POCKET_DIR";

/// The folder of the pocket models. Embedded files are unpacked once, and compared byte by byte with
/// what is embedded every time, so that a damaged cache mends itself.
///
/// # Errors
/// When the cache folder cannot be written.
pub(crate) fn assets_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(OVERRIDE) {
        return Ok(dir.into());
    }
    if FILES.is_empty() {
        return Err(PipelineError::Usage(format!(
            "this binary was built without assets/pocket; build the models with `craft pocket build --out DIR` and name the folder in {OVERRIDE}"
        )));
    }
    let names: String = FILES.iter().map(|(name, bytes)| sha256_bytes(bytes) + name).collect();
    let dir = craft_store::cache::dir().join(format!("pocket-{}", &sha256_bytes(names)[..16]));
    for (name, bytes) in FILES {
        let path = dir.join(name);
        if craft_store::input::read(&path, bytes.len() as u64).is_ok_and(|found| found == *bytes) {
            continue;
        }
        if let Some(parent) = path.parent() {
            craft_store::atomic::create_dir(parent)?;
        }
        craft_store::atomic::write(&path, bytes)?;
    }
    Ok(dir)
}

/// Stream of the annotated pairs, apart from those that the embedded models were built from.
const PAIRS_STREAM: u64 = 1 << 40;

/// The world of `craft-pocket`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PocketWorld;

impl World for PocketWorld {
    fn model_dir(&self) -> Result<PathBuf> {
        assets_dir()
    }

    fn reward_dir(&self, name: &str) -> Result<Option<PathBuf>> {
        if !name.starts_with("pocket-") {
            return Ok(None);
        }
        let dir = assets_dir()?.join("rewards").join(name);
        Ok(Path::is_dir(&dir).then_some(dir))
    }

    fn templates(&self) -> &str {
        EXPANSION_TEMPLATES
    }

    fn prompts(&self, seed: u64, part: &str, n: usize) -> Option<Vec<Prompt>> {
        // Prompts that are never trained on are the same for every seed.
        let (seed, split, from) = match part {
            "train" => (seed, Split::Train, world::Split::Train),
            "select" => (0, Split::Eval, world::Split::Select),
            "eval" => (0, Split::Eval, world::Split::Eval),
            _ => return None,
        };
        let prompts = world::prompts(seed, n, from)
            .into_iter()
            .map(|prompt| Prompt {
                id: PromptId::from_index(0),
                text: prompt.text,
                split,
                category: Some(prompt.category),
                facts: serde_json::to_value(&prompt.facts).ok(),
            })
            .collect();
        Some(prompts)
    }

    fn preference_pairs(&self, seed: u64, n: usize) -> Vec<PreferencePair> {
        // The populations of the training rewards in turn; the fourth is held out.
        let people = [Population::Hps, Population::Pick, Population::Aes].map(Annotators::new);
        let mut rng = WorldRng::stream(seed, PAIRS_STREAM);
        let mut pairs = Vec::with_capacity(n);
        while pairs.len() < n {
            let pair = people[pairs.len() % people.len()].sample_pair(&mut rng);
            if pair.prompt.split() != world::Split::Train {
                continue;
            }
            let (a, b) = (pair.a.render(), pair.b.render());
            let (preferred, rejected) = if pair.a_preferred { (a, b) } else { (b, a) };
            pairs.push(PreferencePair { prompt: pair.prompt.text, preferred, rejected });
        }
        pairs
    }

    fn check(&self, rgb: &[u8], facts: &Value) -> Option<Vec<FactRow>> {
        if rgb.len() != world::IMAGE_BYTES {
            return None;
        }
        let facts: Vec<Fact> = serde_json::from_value(facts.clone()).ok()?;
        let rows = world::check(rgb, &facts).into_iter().map(|result| FactRow {
            kind: result.kind.word().to_owned(),
            fact: result.text,
            passed: result.passed,
        });
        Some(rows.collect())
    }
}
