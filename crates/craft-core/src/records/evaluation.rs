//! The evaluation: `evaluation/samples.jsonl` and `evaluation/evaluation.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::prompt::PromptId;
use crate::reward::Missing;

/// Something that a picture must show, and whether it does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// Kind of fact, such as `colour`.
    pub kind: String,
    /// The fact in words.
    pub fact: String,
    /// Whether the picture shows it.
    pub passed: bool,
}

/// One line of `evaluation/samples.jsonl`: one picture of one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// The prompt.
    pub prompt_id: PromptId,
    /// What was asked for.
    pub text: String,
    /// Which initial noise.
    pub sample: u64,
    /// `base`, `tuned` or `control`.
    pub model: String,
    /// Path of the picture relative to `evaluation/`, with `/` between its parts.
    pub image: String,
    /// Scores by reward.
    pub scores: BTreeMap<String, f64>,
    /// Why a reward gave no score.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub missing: BTreeMap<String, Missing>,
    /// What the checker found, where the prompt has facts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub facts: Vec<Fact>,
}

/// `tuned_minus_control` of a reward.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lead {
    /// Mean difference.
    pub delta: f64,
    /// Its 95 % bootstrap interval over prompts.
    pub ci95: [f64; 2],
    /// Share of prompts that the tuned model wins, ties counting one half.
    pub win_rate: f64,
}

/// One reward in `evaluation/evaluation.json`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Mean over the prompts of the base model's scores.
    pub base: f64,
    /// The same of the tuned model.
    pub tuned: f64,
    /// The same of the control.
    pub control: Option<f64>,
    /// Mean of tuned − base over prompts.
    pub delta: f64,
    /// Its 95 % bootstrap interval over prompts.
    pub ci95: [f64; 2],
    /// Share of prompts on which the tuned model beats the base, ties counting one half.
    pub win_rate: f64,
    /// Share of ties.
    pub ties: f64,
    /// Whether it filtered or weighted samples.
    pub trained_on: bool,
    /// Mean of control − base.
    pub control_delta: Option<f64>,
    /// Its 95 % interval.
    pub control_ci95: Option<[f64; 2]>,
    /// Tuned against control.
    pub tuned_minus_control: Option<Lead>,
}

/// A number of each model.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Three {
    /// Of the base model.
    pub base: Option<f64>,
    /// Of the tuned model.
    pub tuned: Option<f64>,
    /// Of the control.
    pub control: Option<f64>,
    /// Of how many facts it is the share, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
}

/// `evaluation/evaluation.json`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// By name; the checker's accuracy is `checker`.
    pub rewards: BTreeMap<String, Change>,
    /// Share of facts shown, by kind.
    pub checker_by_kind: BTreeMap<String, Three>,
    /// Means of the pictures' statistics, by name.
    pub drift: BTreeMap<String, Three>,
    /// Mean pixel distance between samples of a prompt.
    pub diversity: Three,
    /// Prompts evaluated on.
    pub prompts: u64,
    /// Pictures per prompt and model.
    pub samples_per_prompt: u64,
}
