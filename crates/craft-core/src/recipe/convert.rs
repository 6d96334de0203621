//! From sections of a recipe to the options of the functions they steer.

use super::{Recipe, RewardRole};
use crate::reward::RewardName;
use crate::select::{RewardUse, SelectOptions};

impl Recipe {
    /// The options of [`crate::select::select`]: training rewards only.
    pub fn select_options(&self) -> SelectOptions {
        let rewards = self
            .rewards
            .iter()
            .filter(|reward| reward.role == RewardRole::Train)
            .map(|reward| RewardUse {
                name: reward.name.clone(),
                weight: reward.weight,
                filter: reward.filter,
            })
            .collect();
        SelectOptions {
            rewards,
            min_passes: self.select.min_passes,
            margin: self.select.margin,
            indicator: self.select.indicator,
            total: self.select.total,
            statistics: self.select.statistics,
            scale: self.select.advantage_scale,
            sign: self.select.sign,
            shift: self.select.shift,
            max_samples: self.select.max_samples,
            max_per_prompt: self.select.max_per_prompt,
        }
    }

    /// Names of the rewards of one role, in the order of the recipe.
    pub fn reward_names(&self, role: RewardRole) -> Vec<&RewardName> {
        self.rewards.iter().filter(|r| r.role == role).map(|r| &r.name).collect()
    }

    /// Candidates of `prompts` training prompts, originals included.
    pub fn candidate_count(&self, prompts: usize) -> usize {
        prompts * (1 + self.expand.variants) * self.generate.samples
    }

    /// Steps of sampling in the evaluation.
    pub fn evaluate_steps(&self) -> usize {
        self.evaluate.steps.unwrap_or(self.generate.steps)
    }

    /// Guidance scale of the evaluation.
    pub fn evaluate_guidance_scale(&self) -> f64 {
        self.evaluate.guidance_scale.unwrap_or(self.generate.guidance_scale)
    }

    /// Samples per forward and backward pass, with latents of so many positions each (height × width).
    pub fn micro_batch(&self, positions: usize) -> usize {
        let default = default_micro_batch(self.train.batch, positions);
        self.train.micro_batch.unwrap_or(default)
    }
}

/// As many of `batch` as have 16,384 positions of latents together, and at least one: larger passes take more memory and are not
/// faster (`dev/LOG.md`, 2026-11-28).
fn default_micro_batch(batch: usize, positions: usize) -> usize {
    batch.min((1 << 14) / positions.max(1)).max(1)
}
