//! A run folder in memory: numbers over everything, and the rows of the prompts that the page shows.

mod candidates;
mod choice;
mod recipe;
mod stages;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use craft_core::recipe::ReportSection;
use craft_core::records::{
    Evaluation, Look, Metric, Plan, Prompt, PromptId, RunSummary, Sample, Shortfall, Sweep,
};
use serde_json::Value;

use crate::ReportError;
use crate::read;

pub(crate) use candidates::{Candidates, ShownCandidate};
pub(crate) use choice::Part;
pub(crate) use stages::StageRecord;

/// What the page says of a prompt.
#[derive(Debug)]
pub(crate) struct PromptWords {
    pub(crate) text: String,
    pub(crate) category: Option<String>,
}

/// Everything the page is made from. `None` means that the run does not have this part.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) recipe: Option<String>,
    /// `run.json` as it is.
    pub(crate) summary: Option<Value>,
    /// Its keys that are read.
    pub(crate) totals: Option<RunSummary>,
    pub(crate) plan: Option<Plan>,
    /// Run name → step → metric; a step written twice by a resumed run counts once, the later line.
    pub(crate) metrics: BTreeMap<String, BTreeMap<u64, Metric>>,
    pub(crate) stages: Vec<StageRecord>,
    /// Prompts that are shown or evaluated on.
    pub(crate) prompts: BTreeMap<PromptId, PromptWords>,
    pub(crate) candidates: Candidates,
    /// Why fewer samples were selected than asked for, if so.
    pub(crate) shortfall: Option<Shortfall>,
    pub(crate) samples: Option<Vec<Sample>>,
    /// Evaluated prompts that are shown, and how many there are.
    pub(crate) evaluated: Part,
    pub(crate) evaluation: Option<Evaluation>,
    /// Strengths between base and tuned weights.
    pub(crate) sweep: Option<Sweep>,
    /// Evaluations during training.
    pub(crate) looks: Option<Vec<Look>>,
    /// Things that are odd but did not stop the report.
    pub(crate) notes: Vec<String>,
}

/// Whether rows of single candidates are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rows {
    /// Those that the page shows.
    Shown,
    /// Numbers only.
    None,
}

impl Run {
    pub(crate) fn load(dir: &Path, rows: Rows) -> Result<Self, ReportError> {
        if !dir.is_dir() {
            return Err(ReportError::NotARunFolder { path: dir.to_path_buf() });
        }
        let mut notes = Vec::new();
        let metrics = metrics(dir, &mut notes)?;
        let recipe = lenient(&mut notes, read::text(&dir.join("recipe.toml")), "recipe.toml");
        let said = recipe.as_deref().and_then(|text| recipe::number(text, "report", "max_prompts"));
        let most = match rows {
            Rows::Shown => said.unwrap_or(ReportSection::MAX_PROMPTS),
            Rows::None => 0,
        };
        let candidates = Candidates::read(dir, most)?;
        let samples = read::all::<Sample>(&dir.join("evaluation/samples.jsonl"))?;
        let evaluated = choice::evaluated(samples.as_deref().unwrap_or_default(), most);
        let wanted = candidates.shown.iter().map(|shown| &shown.prompt);
        let wanted = wanted.chain(&evaluated.shown).cloned().collect();
        let summary: Option<Value> =
            lenient(&mut notes, read::json(&dir.join("run.json")), "run.json");
        let totals = match summary.clone().map(serde_json::from_value::<RunSummary>).transpose() {
            Ok(totals) => totals,
            Err(error) => {
                notes.push(format!("run.json does not parse: {error}"));
                None
            }
        };
        let run = Self {
            name: folder_name(dir),
            recipe,
            summary,
            totals,
            plan: read::json(&dir.join("plan.json"))?,
            metrics,
            stages: stages::read(dir, &mut notes),
            prompts: prompts(dir, &wanted)?,
            candidates,
            shortfall: read::json(&dir.join("selection/shortfall.json"))?,
            samples,
            evaluated,
            evaluation: read::json(&dir.join("evaluation/evaluation.json"))?,
            sweep: read::json(&dir.join("sweep/sweep.json"))?,
            looks: read::all(&dir.join("aligned/looks.jsonl"))?,
            notes,
        };
        if !run.candidates.are_drawn()
            && run.evaluation.is_none()
            && run.samples.is_none()
            && run.metrics.is_empty()
        {
            return Err(ReportError::NothingToReport { path: dir.to_path_buf() });
        }
        Ok(run)
    }

    /// Samples that were asked for: what the selection says, else the recipe.
    pub(crate) fn budget(&self) -> Option<usize> {
        let stage = self.stages.iter().find(|stage| stage.folder == "selection");
        let counted = stage.and_then(|stage| stage.manifest.counts.get("asked").copied());
        counted
            .map(|n| n as usize)
            .or_else(|| recipe::number(self.recipe.as_deref()?, "select", "max_samples"))
    }

    /// The text of a prompt, or its id where the prompt file does not have it.
    pub(crate) fn prompt_text<'a>(&'a self, id: &'a PromptId) -> &'a str {
        self.prompts.get(id).map_or(id.as_str(), |p| p.text.as_str())
    }
}

fn metrics(
    dir: &Path,
    notes: &mut Vec<String>,
) -> Result<BTreeMap<String, BTreeMap<u64, Metric>>, ReportError> {
    let mut metrics: BTreeMap<String, BTreeMap<u64, Metric>> = BTreeMap::new();
    let cut = read::growing::<Metric>(&dir.join("metrics.jsonl"), |metric| {
        match metrics.get_mut(&metric.run) {
            Some(steps) => drop(steps.insert(metric.step, metric)),
            None => {
                metrics.insert(metric.run.clone(), BTreeMap::from([(metric.step, metric)]));
            }
        }
    })?;
    if cut {
        notes.push(
            "the last line of metrics.jsonl is cut (the run was stopped while writing it)"
                .to_owned(),
        );
    }
    Ok(metrics)
}

/// The words of the prompts that are wanted.
fn prompts(
    dir: &Path,
    wanted: &BTreeSet<PromptId>,
) -> Result<BTreeMap<PromptId, PromptWords>, ReportError> {
    let mut found = BTreeMap::new();
    read::each::<Prompt>(&dir.join("prompts/prompts.jsonl"), |prompt| {
        if wanted.contains(&prompt.id) {
            let words = PromptWords { text: prompt.text, category: prompt.category };
            found.insert(prompt.id, words);
        }
    })?;
    Ok(found)
}

/// Seconds that the steps took. Each line holds the seconds since its process began to train, so what a run that
/// was stopped and went on had done before is added.
pub(crate) fn training_seconds<'a>(steps: impl IntoIterator<Item = &'a Metric>) -> f64 {
    let (mut all, mut before) = (0.0, 0.0);
    for seconds in steps.into_iter().map(|m| m.seconds) {
        all += if seconds >= before { seconds - before } else { seconds };
        before = seconds;
    }
    all
}

/// A file the page can do without: what is wrong becomes a note.
fn lenient<T>(
    notes: &mut Vec<String>,
    read: Result<Option<T>, ReportError>,
    name: &str,
) -> Option<T> {
    match read {
        Ok(Some(value)) => Some(value),
        Ok(None) => {
            notes.push(format!("{name} is missing"));
            None
        }
        Err(ReportError::BadFile { message, .. }) => {
            notes.push(format!("{name} does not parse: {message}"));
            None
        }
        Err(_) => {
            notes.push(format!("{name} cannot be read"));
            None
        }
    }
}

fn folder_name(dir: &Path) -> String {
    let full = dir.canonicalize().unwrap_or_else(|_| dir.to_path_buf());
    full.file_name().map_or_else(|| "run".to_owned(), |n| n.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn took(seconds: &[f64]) -> f64 {
        let metric = |(step, seconds): (usize, &f64)| Metric {
            run: "craft".to_owned(),
            step: step as u64,
            loss: None,
            grad_norm: None,
            lr: 0.0,
            nimg: 0,
            skipped: 0,
            seconds: *seconds,
        };
        let steps: Vec<Metric> = seconds.iter().enumerate().map(metric).collect();
        training_seconds(&steps)
    }

    #[test]
    fn training_took_its_last_second_and_what_was_before_a_stop() {
        assert_eq!(took(&[]), 0.0);
        assert_eq!(took(&[2.0, 4.0, 6.0]), 6.0);
        // Stopped after the third step; the clock began anew.
        assert_eq!(took(&[2.0, 4.0, 6.0, 1.5, 3.0]), 9.0);
    }
}
