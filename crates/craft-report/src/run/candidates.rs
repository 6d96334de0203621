//! What the files of candidates say: numbers over all rows, which pass by one at a time, and the rows
//! of the prompts that are shown.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use craft_core::records::{Candidate, CandidateId, ControlRow, PromptId, ScoreRow, SelectionRow};
use craft_core::stats::{mean, pearson, ranks};

use super::choice::{CANDIDATES, Part, choose, escaped};
use crate::ReportError;
use crate::funnel::Funnel;
use crate::read;

const DRAWN: &str = "candidates/candidates.jsonl";
const SCORED: &str = "rewards/rewards.jsonl";
const JUDGED: &str = "selection/selection.jsonl";
const CONTROL: &str = "selection/control.jsonl";

/// The candidates of a run.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    pub(crate) funnel: Funnel,
    /// Candidates with a score of every reward; none where nothing was scored.
    pub(crate) scored: Option<usize>,
    /// Rewards that scored candidates.
    pub(crate) rewards: BTreeSet<String>,
    pub(crate) agreement: Option<Agreement>,
    /// Candidates of the random control.
    pub(crate) control: Option<usize>,
    /// Prompts of training that are shown, and how many there are.
    pub(crate) part: Part,
    /// In the order of their ids.
    pub(crate) shown: Vec<ShownPrompt>,
    drawn: bool,
    judged: bool,
}

/// A prompt whose candidates are shown.
#[derive(Debug)]
pub(crate) struct ShownPrompt {
    pub(crate) prompt: PromptId,
    /// By wording and noise.
    pub(crate) candidates: Vec<ShownCandidate>,
}

/// A candidate with all that the run says of it.
#[derive(Debug)]
pub(crate) struct ShownCandidate {
    pub(crate) row: Candidate,
    pub(crate) scores: Option<ScoreRow>,
    pub(crate) selection: Option<SelectionRow>,
    pub(crate) control: bool,
}

/// Rank correlations of rewards over candidates, each against the mean of its prompt.
#[derive(Debug)]
pub(crate) struct Agreement {
    pub(crate) rewards: Vec<String>,
    /// By pair of rewards; `None` where one does not vary.
    pub(crate) correlations: Vec<Vec<Option<f64>>>,
}

/// What is kept of a prompt while rows pass by.
#[derive(Debug, Default)]
struct OfPrompt {
    /// Bytes of its rows in the page, about.
    bytes: usize,
    drawn: bool,
    passed: bool,
    selected: bool,
}

type Prompts = HashMap<PromptId, OfPrompt>;

impl Candidates {
    /// Reads the files of candidates; rows of at most `most` prompts are kept.
    pub(super) fn read(dir: &Path, most: usize) -> Result<Self, ReportError> {
        let mut all = Self::default();
        let mut prompts = Prompts::new();
        all.count_drawn(dir, &mut prompts)?;
        all.count_judged(dir, &mut prompts)?;
        all.count_scored(dir)?;
        if all.drawn {
            all.agreement = agreement(dir, &all.rewards)?;
        }
        let drawn: BTreeMap<&PromptId, usize> =
            prompts.iter().filter(|(_, p)| p.drawn).map(|(id, p)| (id, p.bytes)).collect();
        let selected = |id: &PromptId| prompts.get(id).is_some_and(|p| p.selected);
        all.part = choose(&drawn, selected, most, CANDIDATES);
        all.gather(dir)?;
        Ok(all)
    }

    /// Whether there are candidates.
    pub(crate) fn are_drawn(&self) -> bool {
        self.drawn
    }

    /// Whether there is a selection.
    pub(crate) fn are_judged(&self) -> bool {
        self.judged
    }

    fn count_drawn(&mut self, dir: &Path, prompts: &mut Prompts) -> Result<(), ReportError> {
        let funnel = &mut self.funnel;
        let there = read::each::<Candidate>(&dir.join(DRAWN), |row| {
            funnel.candidates += 1;
            funnel.originals += usize::from(row.variant == 0);
            let bytes = 330 + escaped(&row.text) + 2 * row.image.len();
            let prompt = prompts.entry(row.prompt_id).or_default();
            funnel.prompts += usize::from(!prompt.drawn);
            prompt.drawn = true;
            prompt.bytes += bytes;
        })?;
        self.drawn = there.is_some();
        Ok(())
    }

    fn count_judged(&mut self, dir: &Path, prompts: &mut Prompts) -> Result<(), ReportError> {
        let funnel = &mut self.funnel;
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        let there = read::each::<SelectionRow>(&dir.join(JUDGED), |row| {
            funnel.take(&row, &mut reasons);
            if row.passed || row.selected {
                let prompt = prompts.entry(row.prompt_id).or_default();
                funnel.prompts_passed += usize::from(row.passed && !prompt.passed);
                funnel.prompts_selected += usize::from(row.selected && !prompt.selected);
                prompt.passed |= row.passed;
                prompt.selected |= row.selected;
            }
        })?;
        self.judged = there.is_some();
        self.funnel.reasons = crate::funnel::by_count(reasons);
        Ok(())
    }

    fn count_scored(&mut self, dir: &Path) -> Result<(), ReportError> {
        let mut whole = 0;
        let rewards = &mut self.rewards;
        let there = read::each::<ScoreRow>(&dir.join(SCORED), |row| {
            whole += usize::from(row.missing().is_empty());
            for name in row.scores().keys() {
                if !rewards.contains(name) {
                    rewards.insert(name.clone());
                }
            }
        })?;
        self.scored = there.map(|()| whole);
        Ok(())
    }

    /// Reads the rows of the prompts that are shown.
    fn gather(&mut self, dir: &Path) -> Result<(), ReportError> {
        let mut rows: BTreeMap<CandidateId, ShownCandidate> = BTreeMap::new();
        let part = &self.part;
        if !part.shown.is_empty() {
            read::each::<Candidate>(&dir.join(DRAWN), |row| {
                if part.shown.contains(&row.prompt_id) {
                    let id = row.id.clone();
                    let shown =
                        ShownCandidate { row, scores: None, selection: None, control: false };
                    rows.insert(id, shown);
                }
            })?;
            read::each::<ScoreRow>(&dir.join(SCORED), |row| {
                if let Some(shown) = rows.get_mut(row.id()) {
                    shown.scores = Some(row);
                }
            })?;
            read::each::<SelectionRow>(&dir.join(JUDGED), |row| {
                if let Some(shown) = rows.get_mut(&row.id) {
                    shown.selection = Some(row);
                }
            })?;
        }
        let mut control = 0;
        let there = read::each::<ControlRow>(&dir.join(CONTROL), |row| {
            control += 1;
            if let Some(shown) = rows.get_mut(&row.id) {
                shown.control = true;
            }
        })?;
        self.control = there.map(|()| control);
        // In the order of prompts, wordings and noises.
        for (id, candidate) in rows {
            match self.shown.last_mut().filter(|last| last.prompt == id.prompt) {
                Some(last) => last.candidates.push(candidate),
                None => {
                    self.shown.push(ShownPrompt { prompt: id.prompt, candidates: vec![candidate] })
                }
            }
        }
        Ok(())
    }
}

/// How rewards agree over the candidates that all of them scored.
fn agreement(dir: &Path, rewards: &BTreeSet<String>) -> Result<Option<Agreement>, ReportError> {
    let mut places: HashMap<PromptId, u32> = HashMap::new();
    let mut prompts: Vec<u32> = Vec::new();
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); rewards.len()];
    read::each::<ScoreRow>(&dir.join(SCORED), |row| {
        if row.scores().len() == rewards.len() {
            let next = places.len() as u32;
            prompts.push(*places.entry(row.id().prompt.clone()).or_insert(next));
            for (column, score) in columns.iter_mut().zip(row.scores().values()) {
                column.push(*score);
            }
        }
    })?;
    if rewards.len() < 2 || prompts.is_empty() {
        return Ok(None);
    }
    for column in &mut columns {
        centre(column, &prompts, places.len());
    }
    let enough = prompts.len() >= 3;
    let ranked: Vec<Vec<f64>> = columns.iter().map(|column| ranks(column)).collect();
    let one = |a: usize, b: usize| match a == b {
        true => Some(1.0),
        false => pearson(&ranked[a], &ranked[b]).filter(|_| enough),
    };
    let all = 0..rewards.len();
    let correlations = all.clone().map(|a| all.clone().map(|b| one(a, b)).collect()).collect();
    Ok(Some(Agreement { rewards: rewards.iter().cloned().collect(), correlations }))
}

/// Takes the mean of its prompt from each value.
fn centre(column: &mut [f64], prompts: &[u32], count: usize) {
    let mut groups: Vec<Vec<f64>> = vec![Vec::new(); count];
    for (value, prompt) in column.iter().zip(prompts) {
        groups[*prompt as usize].push(*value);
    }
    let means: Vec<f64> = groups.iter().map(|group| mean(group)).collect();
    for (value, prompt) in column.iter_mut().zip(prompts) {
        *value -= means[*prompt as usize];
    }
}
