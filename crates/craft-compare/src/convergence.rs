//! How soon each method reaches the best held-out score that Diffusion-DPO reaches.

use craft_core::stats::mean;
use serde_json::{Value, json};

use super::plan::Plan;
use super::summary::{Row, Tuned};

/// A mean curve over seeds that did not diverge: passes, seconds and gain, from the base model on.
struct Curve {
    passes: Vec<f64>,
    seconds: Vec<f64>,
    cpu: Vec<f64>,
    gains: Vec<f64>,
}

impl Curve {
    fn of(row: &Row<'_>, reward: &str) -> Option<Self> {
        let whole: Vec<&Tuned> = row.seeds.iter().filter(|t| t.result.diverged.is_none()).collect();
        let first = &whole.first()?.result.curve;
        let mut curve =
            Self { passes: vec![0.0], seconds: vec![0.0], cpu: vec![0.0], gains: vec![0.0] };
        for (i, point) in first.iter().enumerate() {
            let same: Vec<_> = whole
                .iter()
                .filter_map(|t| t.result.curve.get(i).filter(|p| p.step == point.step))
                .collect();
            let gains: Vec<f64> =
                same.iter().filter_map(|p| p.gains.get(reward).copied()).collect();
            if gains.is_empty() {
                continue;
            }
            curve.passes.push(point.sample_passes as f64);
            curve.seconds.push(mean(&same.iter().map(|p| p.seconds).collect::<Vec<_>>()));
            curve.cpu.push(mean(&same.iter().map(|p| p.cpu_seconds).collect::<Vec<_>>()));
            curve.gains.push(mean(&gains));
        }
        Some(curve)
    }

    fn best(&self) -> f64 {
        self.gains.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    }

    /// Place at which the gain first reaches `target`, as [passes, seconds, seconds of processors], between two evaluations on a line.
    fn reaches(&self, target: f64) -> Option<[f64; 3]> {
        let i = self.gains.iter().position(|gain| *gain >= target)?;
        let Some(before) = i.checked_sub(1) else { return Some([0.0; 3]) };
        let share = (target - self.gains[before]) / (self.gains[i] - self.gains[before]);
        let at = |values: &[f64]| values[before] + share * (values[i] - values[before]);
        Some([at(&self.passes), at(&self.seconds), at(&self.cpu)])
    }
}

/// The table, or null where no method is Diffusion-DPO.
pub(super) fn of(plan: &Plan, rows: &[Row<'_>]) -> Value {
    let named = |name: &str| rows.iter().find(|row| row.entry.name == name);
    let Some(dpo) = named("dpo").or_else(|| named("dpo-rewards")) else { return Value::Null };
    let Some(target) = Curve::of(dpo, &plan.decisive).map(|curve| curve.best()) else {
        return Value::Null;
    };
    let found: Vec<(&Row<'_>, Option<[f64; 4]>)> = rows
        .iter()
        .filter(|row| row.entry.method.data.guidance().is_none())
        .map(|row| {
            let reached = Curve::of(row, &plan.decisive).and_then(|curve| curve.reaches(target));
            let preparing = mean(
                &row.seeds
                    .iter()
                    .map(|t| {
                        let s = t.result.seconds;
                        s.generation + s.scoring + s.data
                    })
                    .collect::<Vec<_>>(),
            );
            (row, reached.map(|[passes, seconds, cpu]| [passes, seconds, preparing + seconds, cpu]))
        })
        .collect();
    let craft = found.iter().find(|(row, _)| row.entry.name == "craft").and_then(|(_, at)| *at);
    let mut table = serde_json::Map::new();
    for (row, at) in &found {
        let ratio = |i: usize| Some((*at)?[i] / craft?[i]).filter(|r| r.is_finite());
        let entry = json!({
            "sample_passes": at.map(|a| a[0]),
            "seconds_of_training": at.map(|a| a[1]),
            "seconds_with_preparation": at.map(|a| a[2]),
            "processor_seconds_of_training": at.map(|a| a[3]),
            "ratio_of_passes": ratio(0),
            "ratio_of_training": ratio(1),
            "ratio_with_preparation": ratio(2),
            "ratio_of_processor_seconds": ratio(3),
        });
        table.insert(row.entry.name.clone(), entry);
    }
    json!({
        "of": dpo.entry.name, "reward": plan.decisive, "target": target, "methods": table,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_first_crossing_counts_and_lies_on_the_line() {
        let curve = Curve {
            passes: vec![0.0, 100.0, 200.0, 400.0],
            seconds: vec![0.0, 1.0, 2.0, 4.0],
            cpu: vec![0.0, 2.0, 4.0, 8.0],
            gains: vec![0.0, 0.2, 0.1, 0.3],
        };
        assert_eq!(curve.best(), 0.3);
        assert_eq!(curve.reaches(0.1).unwrap(), [50.0, 0.5, 1.0]);
        let [passes, seconds, _] = curve.reaches(0.25).unwrap();
        assert!((passes - 350.0).abs() < 1e-9 && (seconds - 3.5).abs() < 1e-9);
        assert_eq!(curve.reaches(0.31), None);
        assert_eq!(curve.reaches(-0.1).unwrap(), [0.0; 3]);
    }
}
