//! A run folder in memory: the small part of each file that the report shows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use crate::ReportError;
use crate::read;

/// Reward name → score; `None` where the file held a null (a score that was not finite).
pub(crate) type Scores = BTreeMap<String, Option<f64>>;

#[derive(Debug, Deserialize)]
pub(crate) struct Prompt {
    pub(crate) id: String,
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) category: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) id: String,
    pub(crate) prompt_id: String,
    pub(crate) variant: u64,
    #[serde(default)]
    pub(crate) sample: u64,
    #[serde(default)]
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) image: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct RewardLine {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) scores: Scores,
    #[serde(default)]
    pub(crate) missing: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SelectionLine {
    pub(crate) id: String,
    pub(crate) prompt_id: String,
    #[serde(default)]
    pub(crate) passed_by: BTreeMap<String, bool>,
    #[serde(default)]
    pub(crate) passed: bool,
    #[serde(default)]
    pub(crate) reason: Option<String>,
    #[serde(default)]
    pub(crate) total: Option<f64>,
    #[serde(default)]
    pub(crate) advantage: Option<f64>,
    #[serde(default)]
    pub(crate) weight: Option<f64>,
    #[serde(default)]
    pub(crate) selected: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ControlLine {
    pub(crate) id: String,
}

/// Fewer samples than asked for: `selection/shortfall.json`.
#[derive(Debug, Deserialize)]
pub(crate) struct Shortfall {
    #[serde(default)]
    pub(crate) text: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Metric {
    #[serde(default = "craft")]
    pub(crate) run: String,
    pub(crate) step: u64,
    #[serde(default)]
    pub(crate) loss: Option<f64>,
    #[serde(default)]
    pub(crate) grad_norm: Option<f64>,
    #[serde(default)]
    pub(crate) lr: Option<f64>,
    #[serde(default)]
    pub(crate) nimg: Option<u64>,
    #[serde(default)]
    pub(crate) seconds: Option<f64>,
}

fn craft() -> String {
    "craft".to_owned()
}

#[derive(Debug, Deserialize)]
pub(crate) struct Fact {
    pub(crate) kind: String,
    pub(crate) fact: String,
    pub(crate) passed: bool,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Sample {
    pub(crate) prompt_id: String,
    #[serde(default)]
    pub(crate) text: String,
    #[serde(default)]
    pub(crate) sample: u64,
    pub(crate) model: String,
    #[serde(default)]
    pub(crate) image: Option<String>,
    #[serde(default)]
    pub(crate) scores: Scores,
    #[serde(default)]
    pub(crate) facts: Vec<Fact>,
}

/// Ends of a 95 % interval; null ends make the interval unknown.
pub(crate) type Ends = [Option<f64>; 2];

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Versus {
    #[serde(default)]
    pub(crate) delta: Option<f64>,
    #[serde(default)]
    pub(crate) ci95: Option<Ends>,
    #[serde(default)]
    pub(crate) win_rate: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct RewardEval {
    #[serde(default)]
    pub(crate) base: Option<f64>,
    #[serde(default)]
    pub(crate) tuned: Option<f64>,
    #[serde(default)]
    pub(crate) control: Option<f64>,
    #[serde(default)]
    pub(crate) delta: Option<f64>,
    #[serde(default)]
    pub(crate) ci95: Option<Ends>,
    #[serde(default)]
    pub(crate) win_rate: Option<f64>,
    #[serde(default)]
    pub(crate) ties: Option<f64>,
    #[serde(default)]
    pub(crate) trained_on: Option<bool>,
    #[serde(default)]
    pub(crate) control_delta: Option<f64>,
    #[serde(default)]
    pub(crate) control_ci95: Option<Ends>,
    #[serde(default)]
    pub(crate) tuned_minus_control: Option<Versus>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub(crate) struct Triple {
    #[serde(default)]
    pub(crate) base: Option<f64>,
    #[serde(default)]
    pub(crate) tuned: Option<f64>,
    #[serde(default)]
    pub(crate) control: Option<f64>,
    #[serde(default)]
    pub(crate) n: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
pub(crate) struct Evaluation {
    #[serde(default)]
    pub(crate) rewards: BTreeMap<String, RewardEval>,
    #[serde(default)]
    pub(crate) checker_by_kind: Option<BTreeMap<String, Triple>>,
    #[serde(default)]
    pub(crate) drift: Option<BTreeMap<String, Triple>>,
    #[serde(default)]
    pub(crate) diversity: Option<Triple>,
    #[serde(default)]
    pub(crate) prompts: Option<u64>,
    #[serde(default)]
    pub(crate) samples_per_prompt: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Dropped {
    #[serde(default)]
    pub(crate) id: Value,
    #[serde(default)]
    pub(crate) reason: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Stage {
    #[serde(default)]
    pub(crate) stage: String,
    #[serde(default)]
    pub(crate) version: Option<u64>,
    #[serde(default)]
    pub(crate) code_version: Option<String>,
    #[serde(default)]
    pub(crate) config_hash: Option<String>,
    #[serde(default)]
    pub(crate) inputs: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) outputs: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) counts: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) dropped: Vec<Dropped>,
    #[serde(default)]
    pub(crate) seconds: Option<f64>,
    /// Folder relative to the run, with `/`.
    #[serde(skip)]
    pub(crate) folder: String,
}

/// Everything the page is made from. `None` means that the run does not have this part.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) name: String,
    pub(crate) recipe: Option<String>,
    pub(crate) summary: Option<Value>,
    /// Run name → step → metric; a step written twice by a resumed run counts once, the later line.
    pub(crate) metrics: BTreeMap<String, BTreeMap<u64, Metric>>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) prompts: BTreeMap<String, Prompt>,
    pub(crate) candidates: Option<Vec<Candidate>>,
    pub(crate) rewards: Option<BTreeMap<String, RewardLine>>,
    pub(crate) selection: Option<BTreeMap<String, SelectionLine>>,
    /// Why fewer samples were selected than asked for, if so.
    pub(crate) shortfall: Option<Shortfall>,
    pub(crate) control: Option<BTreeSet<String>>,
    pub(crate) samples: Option<Vec<Sample>>,
    pub(crate) evaluation: Option<Evaluation>,
    /// Strengths between base and tuned weights.
    pub(crate) sweep: Option<Value>,
    /// Looks at the model in training.
    pub(crate) looks: Option<Vec<Value>>,
    /// Things that are odd but did not stop the report.
    pub(crate) notes: Vec<String>,
}

impl Run {
    pub(crate) fn load(dir: &Path) -> Result<Self, ReportError> {
        if !dir.is_dir() {
            return Err(ReportError::NotARunFolder { path: dir.to_path_buf() });
        }
        let mut notes = Vec::new();
        let mut metrics: BTreeMap<String, BTreeMap<u64, Metric>> = BTreeMap::new();
        if let Some((lines, cut)) = read::growing_lines::<Metric>(&dir.join("metrics.jsonl"))? {
            if cut {
                notes.push(
                    "the last line of metrics.jsonl is cut (the run was stopped while writing it)"
                        .to_owned(),
                );
            }
            for m in lines {
                metrics.entry(m.run.clone()).or_default().insert(m.step, m);
            }
        }
        let prompts =
            read::json_lines::<Prompt>(&dir.join("prompts/prompts.jsonl"))?.unwrap_or_default();
        let rewards = read::json_lines::<RewardLine>(&dir.join("rewards/rewards.jsonl"))?;
        let selection = read::json_lines::<SelectionLine>(&dir.join("selection/selection.jsonl"))?;
        let control = read::json_lines::<ControlLine>(&dir.join("selection/control.jsonl"))?;
        let run = Self {
            name: folder_name(dir),
            recipe: lenient(&mut notes, read::text(&dir.join("recipe.toml")), "recipe.toml"),
            summary: lenient(&mut notes, read::json(&dir.join("run.json")), "run.json"),
            metrics,
            stages: stages(dir, &mut notes),
            prompts: prompts.into_iter().map(|p| (p.id.clone(), p)).collect(),
            candidates: read::json_lines(&dir.join("candidates/candidates.jsonl"))?,
            rewards: rewards.map(|lines| lines.into_iter().map(|l| (l.id.clone(), l)).collect()),
            selection: selection
                .map(|lines| lines.into_iter().map(|l| (l.id.clone(), l)).collect()),
            shortfall: read::json(&dir.join("selection/shortfall.json"))?,
            control: control.map(|lines| lines.into_iter().map(|l| l.id).collect()),
            samples: read::json_lines(&dir.join("evaluation/samples.jsonl"))?,
            evaluation: read::json(&dir.join("evaluation/evaluation.json"))?,
            sweep: read::json(&dir.join("sweep/sweep.json"))?,
            looks: read::json_lines(&dir.join("aligned/looks.jsonl"))?,
            notes,
        };
        if run.candidates.is_none()
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
        let counted = stage.and_then(|stage| stage.counts.get("asked")?.as_u64());
        counted.map(|n| n as usize).or_else(|| max_samples(self.recipe.as_deref()?))
    }

    /// The text of a prompt, or its id where the prompt file does not have it.
    pub(crate) fn prompt_text<'a>(&'a self, id: &'a str) -> &'a str {
        self.prompts.get(id).map_or(id, |p| p.text.as_str())
    }
}

/// `select.max_samples` of a resolved recipe.
fn max_samples(recipe: &str) -> Option<usize> {
    let mut lines = recipe.lines().map(str::trim);
    lines.find(|line| *line == "[select]")?;
    let own = lines.take_while(|line| !line.starts_with('['));
    own.filter_map(|line| line.split_once('='))
        .find(|(key, _)| key.trim() == "max_samples")
        .and_then(|(_, value)| value.split('#').next()?.trim().parse().ok())
}

/// Seconds that the steps took. Each line holds the seconds since its process began to train, so what a run that
/// was stopped and went on had done before is added.
pub(crate) fn training_seconds<'a>(steps: impl IntoIterator<Item = &'a Metric>) -> f64 {
    let (mut all, mut before) = (0.0, 0.0);
    for seconds in steps.into_iter().filter_map(|m| m.seconds) {
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

const ORDER: [&str; 11] = [
    "prompts",
    "expanded",
    "candidates",
    "rewards",
    "selection",
    "checkpoints",
    "aligned",
    "control",
    "evaluation",
    "sweep",
    "report",
];

/// All `stage.json` files one or two folders down, in the order of the pipeline.
fn stages(dir: &Path, notes: &mut Vec<String>) -> Vec<Stage> {
    let mut folders = Vec::new();
    for top in subfolders(dir) {
        for inner in subfolders(&dir.join(&top)) {
            folders.push(format!("{top}/{inner}"));
        }
        folders.push(top);
    }
    let rank = |folder: &str| {
        let top = folder.split('/').next().unwrap_or(folder).to_owned();
        let place = ORDER.iter().position(|o| *o == top).unwrap_or(ORDER.len());
        (place, folder.to_owned())
    };
    folders.sort_by_key(|f| rank(f));
    let mut out = Vec::new();
    for folder in folders.into_iter().filter(|f| f != "report") {
        match read::json::<Stage>(&dir.join(&folder).join("stage.json")) {
            Ok(Some(stage)) => out.push(Stage { folder, ..stage }),
            Ok(None) => {}
            Err(_) => notes.push(format!(
                "{folder}/stage.json cannot be read; its times and hashes are not shown"
            )),
        }
    }
    out
}

fn subfolders(dir: &Path) -> Vec<String> {
    let entries = craft_store::atomic::list(dir).unwrap_or_default();
    let folders = entries.iter().filter(|path| path.is_dir() && !path.is_symlink());
    folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect()
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
            lr: None,
            nimg: None,
            seconds: Some(*seconds),
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

    #[test]
    fn the_budget_stands_in_the_recipe() {
        let recipe = "[train]\nmax_samples = 1\n\n[select]\nmargin = 0.0\nmax_samples = 20\n[x]\n";
        assert_eq!(max_samples(recipe), Some(20));
        assert_eq!(max_samples("[select]\nmargin = 0.0\n[y]\nmax_samples = 3\n"), None);
    }
}
