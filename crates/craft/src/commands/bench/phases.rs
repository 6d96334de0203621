//! Where the time of a step goes, beside what the processor can do at most.

use craft_nn::ops::profile::{Phase, Profile, Spent};
use serde_json::{Value, json};

/// Mean of a step.
struct Row {
    name: &'static str,
    spent: Spent,
}

/// Means of the measured steps.
pub(super) struct Phases {
    rows: Vec<Row>,
    step: f64,
}

impl Phases {
    /// From the profile of all measured steps, the seconds of the optimizer in them, and the seconds of each.
    pub(super) fn new(profile: Profile, optimizer: f64, steps: &[f64]) -> Self {
        let n = steps.len().max(1) as f64;
        let step = steps.iter().sum::<f64>() / n;
        let row = |name, seconds: f64, flops: f64| Row {
            name,
            spent: Spent { seconds: seconds / n, flops: flops / n },
        };
        let mut rows: Vec<Row> = Phase::ALL
            .iter()
            .zip(profile)
            .map(|(phase, spent)| row(phase.as_str(), spent.seconds, spent.flops))
            .collect();
        if optimizer > 0.0 {
            rows.push(row("optimizer", optimizer, 0.0));
        }
        let known: f64 = rows.iter().map(|r| r.spent.seconds).sum();
        rows.push(row("everything else", n * (step - known).max(0.0), 0.0));
        Self { rows, step }
    }

    /// A table for people.
    pub(super) fn lines(&self, roofline: f64) -> Vec<String> {
        let mut lines =
            vec!["phase                   seconds  share   GFLOP/s  of the peak".to_owned()];
        for Row { name, spent } in &self.rows {
            let share = 100.0 * spent.seconds / self.step.max(f64::MIN_POSITIVE);
            let mut line = format!("{name:<22} {:8.4}  {share:4.0} %", spent.seconds);
            if let Some(rate) = rate(spent) {
                line.push_str(&format!("  {rate:7.1}  {:7.0} %", 100.0 * rate / roofline));
            }
            lines.push(line);
        }
        lines
    }

    /// The same for programs.
    pub(super) fn json(&self, roofline: f64) -> Value {
        let rows = self.rows.iter().map(|Row { name, spent }| {
            json!({
                "phase": name, "seconds": spent.seconds, "gflops": rate(spent),
                "of_roofline": rate(spent).map(|rate| rate / roofline),
            })
        });
        rows.collect()
    }
}

/// GFLOP/s.
fn rate(spent: &Spent) -> Option<f64> {
    (spent.flops > 0.0 && spent.seconds > 0.0).then(|| spent.flops / spent.seconds / 1e9)
}
