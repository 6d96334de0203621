//! Which rewards a run has, what part they played, and the evaluation's scores by prompt.

use std::collections::{BTreeMap, BTreeSet};

use craft_core::records::{Change, PromptId, Sample};

use crate::run::Run;
use crate::stats;

/// The part a reward played.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    /// Looked at only after training.
    HeldOut,
    /// Used for filtering or weighting.
    TrainedOn,
    /// The programmatic checker.
    Checker,
}

impl Role {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::HeldOut => "held out",
            Self::TrainedOn => "trained on",
            Self::Checker => "checker",
        }
    }

    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::HeldOut => "held",
            Self::TrainedOn => "trained",
            Self::Checker => "checker",
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Reward {
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// All rewards of the run: held-out first, then those trained on, then the checker; by name within.
pub(crate) fn list(run: &Run) -> Vec<Reward> {
    let filters: BTreeSet<&String> = run.candidates.funnel.passed_by.keys().collect();
    let mut names: BTreeSet<&String> = filters.clone();
    names.extend(run.evaluation.iter().flat_map(|e| e.rewards.keys()));
    names.extend(&run.candidates.rewards);
    names.extend(run.samples.iter().flatten().flat_map(|s| s.scores.keys()));
    let role = |name: &String| {
        let said = run.evaluation.as_ref().and_then(|e| e.rewards.get(name)).map(|r| r.trained_on);
        match (name.as_str(), said) {
            ("checker", _) => Role::Checker,
            (_, Some(true)) => Role::TrainedOn,
            (_, Some(false)) => Role::HeldOut,
            (_, None) if filters.contains(name) => Role::TrainedOn,
            (_, None) => Role::HeldOut,
        }
    };
    let mut out: Vec<Reward> =
        names.into_iter().map(|n| Reward { name: n.clone(), role: role(n) }).collect();
    out.sort_by(|a, b| (a.role, &a.name).cmp(&(b.role, &b.name)));
    out
}

/// Pictures of one prompt and one seed, by model.
pub(crate) type Pair<'a> = BTreeMap<&'a str, &'a Sample>;

/// All pairs by (prompt id, sample index), in this order.
pub(crate) fn pairs(run: &Run) -> BTreeMap<(&PromptId, u64), Pair<'_>> {
    let mut out: BTreeMap<(&PromptId, u64), Pair<'_>> = BTreeMap::new();
    for s in run.samples.iter().flatten() {
        out.entry((&s.prompt_id, s.sample)).or_default().insert(s.model.as_str(), s);
    }
    out
}

/// What all sections are made from.
pub(crate) struct Context<'a> {
    pub(crate) run: &'a Run,
    pub(crate) rewards: Vec<Reward>,
    pub(crate) pairs: BTreeMap<(&'a PromptId, u64), Pair<'a>>,
    pub(crate) has_control: bool,
}

impl<'a> Context<'a> {
    pub(crate) fn new(run: &'a Run) -> Self {
        let pairs = pairs(run);
        let has_control = pairs.values().any(|p| p.contains_key("control"))
            || run.evaluation.iter().flat_map(|e| e.rewards.values()).any(|r| r.control.is_some());
        Self { run, rewards: list(run), pairs, has_control }
    }

    pub(crate) fn of_role(&self, role: Role) -> Vec<&str> {
        self.rewards.iter().filter(|r| r.role == role).map(|r| r.name.as_str()).collect()
    }

    pub(crate) fn eval(&self, reward: &str) -> Option<&'a Change> {
        self.run.evaluation.as_ref().and_then(|e| e.rewards.get(reward))
    }

    /// Prompts the evaluation averaged over.
    pub(crate) fn eval_prompts(&self) -> usize {
        self.run.evaluation.as_ref().map_or(self.run.evaluated.all, |e| e.prompts as usize)
    }

    /// Pairs whose pictures are shown, in the order of the gallery.
    pub(crate) fn shown(&self) -> impl Iterator<Item = ((&'a PromptId, u64), &Pair<'a>)> {
        let shown = &self.run.evaluated.shown;
        self.pairs.iter().filter(|((id, _), _)| shown.contains(*id)).map(|(at, pair)| (*at, pair))
    }

    /// One score.
    pub(crate) fn score(pair: &Pair<'_>, model: &str, reward: &str) -> Option<f64> {
        pair.get(model)?.scores.get(reward).copied()
    }

    /// All finite scores of one model.
    pub(crate) fn scores(&self, reward: &str, model: &str) -> Vec<f64> {
        self.pairs.values().filter_map(|p| Self::score(p, model, reward)).collect()
    }

    /// Mean difference of `model` against base per prompt, over the seeds that both have.
    pub(crate) fn deltas(&self, reward: &str, model: &str) -> BTreeMap<&'a PromptId, f64> {
        let mut by_prompt: BTreeMap<&PromptId, Vec<f64>> = BTreeMap::new();
        for ((prompt, _), pair) in &self.pairs {
            if let (Some(b), Some(m)) =
                (Self::score(pair, "base", reward), Self::score(pair, model, reward))
            {
                by_prompt.entry(prompt).or_default().push(m - b);
            }
        }
        by_prompt.into_iter().filter_map(|(p, d)| Some((p, stats::mean(&d)?))).collect()
    }

    /// The text of an evaluated prompt.
    pub(crate) fn eval_text(&self, prompt: &'a PromptId) -> &'a str {
        let mut own = self
            .pairs
            .range((prompt, 0)..)
            .take_while(|((p, _), _)| **p == *prompt)
            .flat_map(|(_, pair)| pair.values());
        own.find(|s| !s.text.is_empty())
            .map_or_else(|| self.run.prompt_text(prompt), |s| s.text.as_str())
    }
}
