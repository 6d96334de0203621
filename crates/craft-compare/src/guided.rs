//! The base model itself, drawn with more guidance: what a user gets without any training.

use std::time::Instant;

use craft_store::{Manifest, jsonl, meter};
use serde_json::json;

use super::Shared;
use super::entry::Entry;
use super::evaluator::Evaluator;
use super::pipeline::{Outcome, Result};
use super::plan::Plan;
use super::result::{IMAGES, RESULT, SCORES, Seconds, TuneResult};
use super::scores::{PictureRow, gains};
use super::tune::{evaluation_inputs, identity};

/// Measures the base model with `factor` times the evaluation's guidance scale.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: &Plan,
    evaluator: &Evaluator<'_>,
    entry: &Entry,
    factor: f64,
    base: &[PictureRow],
) -> Result<Manifest> {
    let scale = factor * shared.run.recipe.evaluate_guidance_scale();
    let config = json!([identity(shared, plan), scale]);
    shared.run.stage(entry.stage.clone(), &config, evaluation_inputs(shared, evaluator), |writer| {
        meter::forget_peak_rss();
        let start = Instant::now();
        let measured =
            evaluator.measure(None, &evaluator.full.guided(factor), &writer.join(IMAGES))?;
        jsonl::write(&writer.join(SCORES), &measured.rows)?;
        let evaluation = start.elapsed().as_secs_f64();
        let result = TuneResult {
            seconds: Seconds { evaluation, ..Seconds::default() },
            peak_rss_bytes: meter::peak_rss_bytes().unwrap_or_default(),
            statistics: measured.statistics,
            diversity: measured.diversity,
            ..TuneResult::default()
        };
        craft_store::manifest::write_json(&writer.join(RESULT), &result)?;
        let gain = gains(base, &measured.rows).get(&plan.decisive).copied();
        Ok(Outcome::default().count("images", measured.rows.len()).say(format!(
            "base model at guidance {scale}; {} {:+.3}",
            plan.decisive,
            gain.unwrap_or(f64::NAN)
        )))
    })
}
