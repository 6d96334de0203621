//! The numbers of a training.

use crate::optimizer::{AdamW, AdamWConfig};
use craft_core::recipe::{LrSchedule, TrainSection};

/// How many steps, how fast, and what ends it.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Optimizer steps.
    pub steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Its shape after the warm-up.
    pub shape: LrSchedule,
    /// Steps of the warm-up.
    pub warmup: usize,
    /// Global norm that gradients are clipped to.
    pub max_grad_norm: f64,
    /// The optimizer's constants.
    pub optimizer: AdamWConfig,
    /// Decay of the average of the weights; `None`: no average.
    pub ema_decay: Option<f64>,
    /// Updates in a row that may be skipped before training stops.
    pub max_nonfinite_steps: usize,
}

impl Settings {
    /// Those of a recipe.
    pub fn of(section: &TrainSection) -> Self {
        Self {
            steps: section.steps,
            learning_rate: section.learning_rate,
            shape: section.lr_schedule,
            warmup: section.warmup_steps,
            max_grad_norm: section.max_grad_norm,
            optimizer: AdamWConfig {
                beta1: section.beta1,
                beta2: section.beta2,
                eps: section.eps,
                weight_decay: section.weight_decay,
            },
            ema_decay: section.ema_decay,
            max_nonfinite_steps: section.max_nonfinite_steps,
        }
    }

    /// A fresh optimizer.
    pub fn new_optimizer(&self) -> AdamW {
        AdamW::new(self.optimizer, self.ema_decay)
    }

    /// Learning rate of update `step`, from 0: a linear warm-up, then the shape.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        match self.shape {
            LrSchedule::Constant => self.learning_rate,
            LrSchedule::Cosine => {
                let all = self.steps.saturating_sub(self.warmup).max(1);
                let done = (step - self.warmup) as f64 / all as f64;
                self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())
            }
        }
    }
}
