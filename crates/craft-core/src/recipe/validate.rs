//! Ranges of every value.

use std::fmt::Display;

use super::{LoraSection, PromptSource, PullTo, Recipe, RecipeError, RewardRole, TrainMode};
use crate::sampler::SamplerKind;

pub(super) fn range(
    key: impl Into<String>,
    value: impl Display,
    allowed: impl Into<String>,
) -> RecipeError {
    RecipeError::Range { key: key.into(), value: value.to_string(), allowed: allowed.into() }
}

/// A whole number within bounds.
pub(super) fn whole(key: &str, value: usize, least: usize, most: usize) -> Result<(), RecipeError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(range(key, value, format!("a whole number from {least} to {most}")))
}

/// A finite number within bounds.
pub(super) fn number(key: &str, value: f64, least: f64, most: f64) -> Result<(), RecipeError> {
    if value.is_finite() && (least..=most).contains(&value) {
        return Ok(());
    }
    Err(range(key, value, format!("a number from {least} to {most}")))
}

/// A number from 0 up to, but not including, 1.
fn below_one(key: &str, value: f64) -> Result<(), RecipeError> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(range(key, value, "a number from 0 to below 1"))
}

/// A text that says something.
pub(super) fn text(key: &str, value: &str, expected: &str) -> Result<(), RecipeError> {
    if !value.trim().is_empty() {
        return Ok(());
    }
    Err(range(key, "empty", expected))
}

const MANY: usize = 10_000_000;

impl Recipe {
    /// Checks every value against its range and against the others.
    pub fn validate(&self) -> Result<(), RecipeError> {
        if self.seed > i64::MAX as u64 {
            return Err(range("seed", self.seed, format!("at most {}", i64::MAX)));
        }
        text("model.path", &self.model.path, "the path of a model folder")?;
        for (i, lora) in self.model.lora.iter().enumerate() {
            text(&format!("model.lora[{i}]"), lora, "a LoRA file, `FILE` or `FILE:SCALE`")?;
        }
        if let Some(config) = &self.model.config {
            text("model.config", config, "the path of a model folder")?;
        }
        self.validate_prompts()?;
        self.expand.validate()?;
        self.validate_generate()?;
        self.validate_rewards()?;
        self.validate_select()?;
        self.validate_train()?;
        self.validate_rounds()?;
        self.validate_report()?;
        self.validate_evaluate()
    }

    fn validate_prompts(&self) -> Result<(), RecipeError> {
        let p = &self.prompts;
        if let Some(count) = p.train_count {
            whole("prompts.train_count", count, 1, MANY)?;
        }
        if let Some(count) = p.eval_count {
            whole("prompts.eval_count", count, 1, MANY)?;
        }
        let files = [("prompts.train", &p.train), ("prompts.eval", &p.eval)];
        for (key, file) in files {
            match (p.source, file) {
                (PromptSource::File, None) => {
                    return Err(range(
                        key,
                        "missing",
                        "a file of prompts (or prompts.source = \"pocket\")",
                    ));
                }
                (PromptSource::File, Some(path)) => text(key, path, "a file of prompts")?,
                (PromptSource::Pocket, Some(part))
                    if key == "prompts.eval" && ["eval", "select"].contains(&part.as_str()) => {}
                (PromptSource::Pocket, Some(path)) => {
                    return Err(range(
                        key,
                        format!("`{path}`"),
                        "no file with prompts.source = \"pocket\" (prompts.eval may be `eval` or `select`)",
                    ));
                }
                (PromptSource::Pocket, None) => {}
            }
        }
        Ok(())
    }

    fn validate_generate(&self) -> Result<(), RecipeError> {
        let g = &self.generate;
        whole("generate.steps", g.steps, 1, 1000)?;
        number("generate.guidance_scale", g.guidance_scale, 0.0, 100.0)?;
        whole("generate.batch", g.batch, 1, 4096)?;
        whole("generate.samples", g.samples, 1, 1000)?;
        if g.karras && !g.scheduler.karras() {
            let names: Vec<String> =
                SamplerKind::with_karras().iter().map(|name| format!("{name:?}")).collect();
            let allowed = format!(
                "false, or generate.scheduler = {}, which can place their steps so",
                names.join(" or ")
            );
            return Err(range("generate.karras", "true", allowed));
        }
        for (key, size) in [("generate.height", g.height), ("generate.width", g.width)] {
            let Some(size) = size else { continue };
            if size == 0 || size % 8 != 0 || size > 8192 {
                return Err(range(key, size, "a multiple of 8 from 8 to 8192 (pixels)"));
            }
        }
        Ok(())
    }

    fn validate_rewards(&self) -> Result<(), RecipeError> {
        for (i, reward) in self.rewards.iter().enumerate() {
            number(&format!("rewards[{i}].weight"), reward.weight, 0.0, 1e6)?;
            if let Some(path) = &reward.weights {
                text(
                    &format!("rewards[{i}].weights"),
                    path,
                    "a folder, a file or a repository of weights",
                )?;
            }
            reward.validate_source(&format!("rewards[{i}]"))?;
            if self.rewards[..i].iter().any(|other| other.name == reward.name) {
                let allowed = "each reward once (a held-out reward must not be trained on)";
                return Err(range(
                    format!("rewards[{i}].name"),
                    format!("`{}` again", reward.name),
                    allowed,
                ));
            }
        }
        let mut training = self.rewards.iter().filter(|r| r.role == RewardRole::Train);
        if !training.any(|r| r.weight > 0.0) {
            let found = format!(
                "{} rewards, none with role = \"train\" and a weight above 0",
                self.rewards.len()
            );
            return Err(range("rewards", found, "at least one"));
        }
        Ok(())
    }

    fn validate_select(&self) -> Result<(), RecipeError> {
        let s = &self.select;
        let filters = self.select_options().rewards.iter().filter(|r| r.filter).count();
        if let Some(passes) = s.min_passes.filter(|passes| *passes > filters) {
            let allowed =
                format!("at most {filters}, the rewards with role = \"train\" and filter = true");
            return Err(range("select.min_passes", passes, allowed));
        }
        number("select.margin", s.margin, -100.0, 100.0)?;
        number("select.shift", s.shift, 0.0, 100.0)?;
        whole("select.max_samples", s.max_samples, 1, MANY)?;
        if let Some(limit) = s.max_per_prompt {
            whole("select.max_per_prompt", limit, 1, MANY)?;
        }
        Ok(())
    }

    fn validate_train(&self) -> Result<(), RecipeError> {
        let t = &self.train;
        whole("train.steps", t.steps, 1, MANY)?;
        whole("train.batch", t.batch, 1, 65_536)?;
        if let Some(micro) = t.micro_batch
            && (micro == 0 || micro > t.batch)
        {
            return Err(range(
                "train.micro_batch",
                micro,
                format!("1 to train.batch = {}", t.batch),
            ));
        }
        if !(t.learning_rate > 0.0 && t.learning_rate <= 1.0) {
            return Err(range(
                "train.learning_rate",
                t.learning_rate,
                "a number above 0, at most 1",
            ));
        }
        if t.warmup_steps > t.steps {
            return Err(range(
                "train.warmup_steps",
                t.warmup_steps,
                format!("at most train.steps = {}", t.steps),
            ));
        }
        number("train.weight_decay", t.weight_decay, 0.0, 10.0)?;
        below_one("train.beta1", t.beta1)?;
        below_one("train.beta2", t.beta2)?;
        if !(t.eps > 0.0 && t.eps <= 1.0) {
            return Err(range("train.eps", t.eps, "a number above 0, at most 1"));
        }
        if !(t.max_grad_norm > 0.0 && t.max_grad_norm.is_finite()) {
            return Err(range("train.max_grad_norm", t.max_grad_norm, "a finite number above 0"));
        }
        if let Some(decay) = t.ema_decay {
            below_one("train.ema_decay", decay)?;
        }
        if let Some(gamma) = t.min_snr_gamma
            && !(gamma > 0.0 && gamma <= 1e4)
        {
            return Err(range("train.min_snr_gamma", gamma, "a number above 0, at most 10000"));
        }
        if t.method.trim().is_empty() {
            return Err(range("train.method", "empty", "the name of a method, such as \"craft\""));
        }
        number("train.form.strength", t.form.strength, 0.0, 1e4)?;
        if let Some(pull) = t.form.pull {
            number("train.form.pull", pull, 0.0, 1e4)?;
        }
        if t.form.pull_to == PullTo::Average && t.ema_decay.is_none() {
            let allowed = "\"base\", or train.ema_decay set: without it there is no average";
            return Err(range("train.form.pull_to", "\"average\"", allowed));
        }
        number("train.unconditional_dropout", t.unconditional_dropout, 0.0, 1.0)?;
        if let Some(max) = t.timestep_max
            && max < t.timestep_min
        {
            let allowed = format!("at least train.timestep_min = {}", t.timestep_min);
            return Err(range("train.timestep_max", max, allowed));
        }
        whole("train.max_nonfinite_steps", t.max_nonfinite_steps, 1, 1000)?;
        self.validate_lora()
    }

    fn validate_lora(&self) -> Result<(), RecipeError> {
        let lora = &self.train.lora;
        if self.train.mode == TrainMode::Full && *lora != LoraSection::default() {
            let allowed = "\"lora\", since train.lora is given";
            return Err(range("train.mode", "\"full\"", allowed));
        }
        whole("train.lora.rank", lora.rank, 1, 1024)?;
        if let Some(alpha) = lora.alpha
            && !(alpha > 0.0 && alpha <= 1e6)
        {
            return Err(range("train.lora.alpha", alpha, "a number above 0, at most 1000000"));
        }
        for (key, targets) in [
            ("train.lora.targets", &lora.targets),
            ("train.lora.text_encoder_targets", &lora.text_encoder_targets),
        ] {
            let expected =
                "endings of module names, such as [\"to_q\", \"to_out.0\"], or [\"all\"]";
            if targets.is_empty() {
                return Err(range(key, "empty", expected));
            }
            for (i, target) in targets.iter().enumerate() {
                text(&format!("{key}[{i}]"), target, expected)?;
            }
        }
        Ok(())
    }

    fn validate_evaluate(&self) -> Result<(), RecipeError> {
        let e = &self.evaluate;
        whole("evaluate.samples_per_prompt", e.samples_per_prompt, 1, 1000)?;
        if let Some(steps) = e.steps {
            whole("evaluate.steps", steps, 1, 1000)?;
        }
        if let Some(scale) = e.guidance_scale {
            number("evaluate.guidance_scale", scale, 0.0, 100.0)?;
        }
        whole("evaluate.bootstrap", e.bootstrap, 100, 1_000_000)
    }
}
