//! The base model itself, drawn with more guidance: what a user gets without any training.

use std::time::Instant;

use craft_store::{Manifest, jsonl};
use serde_json::json;

use super::Shared;
use super::judge::{Judge, PictureRow, gains};
use super::plan::{Entry, Plan};
use super::tune::{IMAGES, RESULT, SCORES, Seconds, TuneResult, identity, judged_inputs};
use crate::error::Result;
use crate::run::{forget_peak_rss, peak_rss_bytes};
use crate::stages::Outcome;

/// Measures the base model with `factor` times the evaluation's guidance scale.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: &Plan,
    judge: &Judge<'_>,
    entry: &Entry,
    factor: f64,
    base: &[PictureRow],
) -> Result<Manifest> {
    let scale = factor * shared.run.recipe.evaluate_guidance_scale();
    let config = json!([identity(shared, plan), scale]);
    shared.run.stage(entry.stage.clone(), &config, judged_inputs(shared, judge), |writer| {
        forget_peak_rss();
        let start = Instant::now();
        let measured = judge.measure(None, &judge.full.guided(factor), &writer.join(IMAGES))?;
        jsonl::write(&writer.join(SCORES), &measured.rows)?;
        let evaluation = start.elapsed().as_secs_f64();
        let result = TuneResult {
            seconds: Seconds { evaluation, ..Seconds::default() },
            peak_rss_bytes: peak_rss_bytes(),
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
