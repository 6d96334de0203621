//! What a method's training was and cost, as it stands in its folder.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pipeline::ImageStatistics;

/// Scores of the evaluation's pictures, in a method's folder.
pub(super) const SCORES: &str = "scores.jsonl";
/// The evaluation's pictures, in a method's folder.
pub(super) const IMAGES: &str = "images";
/// What a method's training was and cost, in its folder.
pub(super) const RESULT: &str = "result.json";

/// Seconds of the parts of a method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seconds {
    /// Drawing the candidates, if the method uses them; drawn once for all methods of a seed.
    pub(super) generation: f64,
    /// Scoring them, if the method uses scores.
    pub(super) scoring: f64,
    /// Making the training set, encoding annotated pictures included.
    pub(super) data: f64,
    pub(super) training: f64,
    /// Pictures along training and at its end.
    pub(super) evaluation: f64,
}

/// An evaluation of a model during training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Point {
    pub(super) step: usize,
    pub(super) sample_passes: usize,
    /// Seconds of training until here.
    pub(super) seconds: f64,
    /// Seconds that processors worked on it, all together.
    #[serde(default)]
    pub(super) cpu_seconds: f64,
    /// Mean change against base on the curve's prompts, by reward.
    pub(super) gains: BTreeMap<String, f64>,
    pub(super) statistics: ImageStatistics,
    /// Seconds of this evaluation and those before it.
    #[serde(default)]
    pub(super) evaluation_seconds: f64,
}

/// What a method's training was and cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TuneResult {
    /// Different pictures trained on.
    pub(super) samples: usize,
    /// Pairs among them, for methods over pairs.
    pub(super) pairs: usize,
    /// Pictures that the model drew to be trained on or chosen from.
    pub(super) images_generated: usize,
    /// Pictures that annotators judged.
    pub(super) images_annotated: usize,
    pub(super) learning_rate: f64,
    pub(super) steps: usize,
    /// At which step it diverged; there are no scores then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) diverged: Option<String>,
    /// Samples that went through the network, forwards and backwards.
    pub(super) sample_passes: usize,
    /// Samples that went through the frozen reference, forwards.
    pub(super) reference_passes: usize,
    pub(super) skipped_steps: usize,
    pub(super) seconds: Seconds,
    pub(super) peak_rss_bytes: u64,
    pub(super) curve: Vec<Point>,
    pub(super) statistics: ImageStatistics,
    pub(super) diversity: Option<f64>,
}
