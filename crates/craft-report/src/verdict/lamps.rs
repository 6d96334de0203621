//! Signs of reward hacking, each as a lamp.

use craft_core::records::Three;

use super::Level;
use crate::html::signed;
use crate::rewards::{Context, Role};
use crate::stats;

/// A warning sign, or its absence.
#[derive(Debug)]
pub(crate) struct Lamp {
    pub(crate) level: Level,
    pub(crate) name: String,
    pub(crate) text: String,
}

/// A change smaller than this share of the base value does not light a drift lamp.
const DRIFT_AMBER: f64 = 0.15;
/// A change larger than this share lights it red.
const DRIFT_RED: f64 = 0.30;

/// Relative change of tuned against base.
pub(crate) fn relative(t: &Three) -> Option<f64> {
    match (t.base, t.tuned) {
        (Some(b), Some(v)) if b.abs() > 1e-12 => Some((v - b) / b.abs()),
        _ => None,
    }
}

/// The lamp of a relative change.
pub(crate) fn drift_level(change: Option<f64>) -> Level {
    match change {
        None => Level::Unknown,
        Some(c) if c.abs() > DRIFT_RED => Level::Bad,
        Some(c) if c.abs() > DRIFT_AMBER => Level::Unclear,
        Some(_) => Level::Good,
    }
}

/// Signs of reward hacking: drift of picture statistics, loss of diversity, trained-on rewards running away from
/// held-out ones, rare but deep losses.
pub(crate) fn lamps(ctx: &Context<'_>) -> Vec<Lamp> {
    let Some(eval) = &ctx.run.evaluation else {
        return Vec::new();
    };
    let mut out = Vec::new();
    for (name, triple) in &eval.drift {
        let change = relative(triple);
        let text = change.map_or_else(
            || "no value".to_owned(),
            |c| format!("{:+.0} % against base", c * 100.0).replace('-', "−"),
        );
        out.push(Lamp { level: drift_level(change), name: name.replace('_', " "), text });
    }
    let change = relative(&eval.diversity);
    let text = change.map_or_else(
        || "no value".to_owned(),
        |c| format!("{:+.0} % distance between samples of a prompt", c * 100.0).replace('-', "−"),
    );
    out.push(Lamp { level: drift_level(change), name: "diversity".to_owned(), text });
    out.extend(runaway(ctx));
    out
}

/// Gains of trained-on and held-out rewards, compared in standard deviations of the base scores.
fn runaway(ctx: &Context<'_>) -> Option<Lamp> {
    let gain = |role: Role| {
        let gains: Vec<f64> = ctx
            .of_role(role)
            .into_iter()
            .filter_map(|n| Some(ctx.eval(n)?.delta / stats::deviation(&ctx.scores(n, "base"))?))
            .collect();
        stats::mean(&gains)
    };
    let (trained, held) = (gain(Role::TrainedOn)?, gain(Role::HeldOut)?);
    let level = match (trained, held) {
        (t, h) if t > 0.1 && h <= 0.0 => Level::Bad,
        (t, h) if t > 0.1 && h < t / 3.0 => Level::Unclear,
        _ => Level::Good,
    };
    let text = format!(
        "trained on {}, held out {} (base standard deviations)",
        signed(trained),
        signed(held)
    );
    Some(Lamp { level, name: "gain gap".to_owned(), text })
}
