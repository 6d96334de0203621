//! What the gallery and the drill-down need, as JSON for the page's script.

use std::collections::BTreeMap;

use craft_core::records::Sample;
use serde_json::{Map, Value, json};

use crate::ReportError;
use crate::images::{PictureSet, Pictures};
use crate::rewards::{Context, Pair};
use crate::run::ShownCandidate;

const MODELS: [&str; 3] = ["base", "tuned", "control"];

/// `{"rewards": [...], "models": [...], "pairs": [...], "prompts": [...]}`. Scores stand in the order of `rewards`.
pub(crate) fn build(ctx: &Context<'_>, pictures: &mut Pictures) -> Result<Value, ReportError> {
    let rewards: Vec<Value> = ctx
        .rewards
        .iter()
        .map(|r| json!({"name": r.name, "role": r.role.class(), "words": r.role.words()}))
        .collect();
    let models: Vec<&str> =
        MODELS.into_iter().filter(|m| ctx.pairs.values().any(|p| p.contains_key(m))).collect();
    Ok(json!({
        "rewards": rewards,
        "models": models,
        "pairs": pairs(ctx, pictures)?,
        "prompts": prompts(ctx, pictures)?,
    }))
}

fn pairs(ctx: &Context<'_>, pictures: &mut Pictures) -> Result<Vec<Value>, ReportError> {
    let shown = ctx.shown().flat_map(|(_, pair)| pair.values());
    let set = pictures.set("evaluation", shown.map(|s| s.image.as_str()));
    let mut out = Vec::new();
    for ((prompt, sample), pair) in ctx.shown() {
        let (mut images, mut values) = (Map::new(), Map::new());
        for (model, s) in pair.iter().filter(|(m, _)| MODELS.contains(*m)) {
            if let Some(address) = pictures.address(&set, &s.image)? {
                images.insert((*model).to_owned(), json!(address));
            }
            values.insert((*model).to_owned(), scores(ctx, s));
        }
        let mut row =
            json!({"p": prompt, "s": sample, "t": ctx.eval_text(prompt), "i": images, "v": values});
        let facts = facts(pair);
        if !facts.is_empty() {
            row["f"] = json!(facts);
        }
        if let Some(c) = ctx.run.prompts.get(prompt).and_then(|p| p.category.as_ref()) {
            row["c"] = json!(c);
        }
        out.push(row);
    }
    Ok(out)
}

fn scores(ctx: &Context<'_>, sample: &Sample) -> Value {
    ctx.rewards.iter().map(|r| number(sample.scores.get(&r.name).copied())).collect()
}

/// `[kind, fact, base, tuned, control]` with true, false or null.
fn facts(pair: &Pair<'_>) -> Vec<Value> {
    let mut rows: BTreeMap<(&str, &str), BTreeMap<&str, bool>> = BTreeMap::new();
    for (model, s) in pair {
        for f in &s.facts {
            rows.entry((&f.kind, &f.fact)).or_default().insert(model, f.passed);
        }
    }
    rows.into_iter()
        .map(|((kind, fact), m)| {
            json!([kind, fact, m.get("base"), m.get("tuned"), m.get("control")])
        })
        .collect()
}

/// Six significant digits keep the page small; null for a missing score.
fn number(value: Option<f64>) -> Value {
    match value {
        Some(v) if v != 0.0 && v.is_finite() => {
            let scale = 10f64.powi(5 - v.abs().log10().floor() as i32);
            let short = (v * scale).round() / scale;
            json!(if short.is_finite() { short } else { v })
        }
        Some(0.0) => json!(0),
        _ => Value::Null,
    }
}

fn prompts(ctx: &Context<'_>, pictures: &mut Pictures) -> Result<Vec<Value>, ReportError> {
    let shown = &ctx.run.candidates.shown;
    let rows = shown.iter().flat_map(|prompt| &prompt.candidates);
    let set = pictures.set("candidates", rows.map(|c| c.row.image.as_str()));
    let mut out = Vec::new();
    for group in shown {
        let id = &group.prompt;
        let rows: Result<Vec<Value>, ReportError> =
            group.candidates.iter().map(|c| candidate(ctx, c, &set, pictures)).collect();
        let mut row = json!({"p": id, "t": ctx.run.prompt_text(id), "c": rows?});
        if let Some(category) = ctx.run.prompts.get(id).and_then(|p| p.category.as_ref()) {
            row["k"] = json!(category);
        }
        out.push(row);
    }
    Ok(out)
}

fn candidate(
    ctx: &Context<'_>,
    c: &ShownCandidate,
    set: &PictureSet,
    pictures: &mut Pictures,
) -> Result<Value, ReportError> {
    let drawn = &c.row;
    let mut row = json!({"id": drawn.id, "v": drawn.variant, "s": drawn.sample, "t": drawn.text});
    if let Some(address) = pictures.address(set, &drawn.image)? {
        row["i"] = json!(address);
    }
    if let Some(line) = &c.scores {
        row["r"] =
            ctx.rewards.iter().map(|r| number(line.scores().get(&r.name).copied())).collect();
        if !line.missing().is_empty() {
            let words =
                line.missing().iter().map(|(name, why)| (name.clone(), json!(why.to_string())));
            row["m"] = Value::Object(words.collect());
        }
    }
    if let Some(line) = &c.selection {
        row["by"] = json!(line.passed_by);
        row["ok"] = json!(line.passed);
        row["tot"] = number(line.total);
        row["adv"] = number(line.advantage);
        row["w"] = number(Some(line.weight));
        row["sel"] = json!(line.selected);
        if let Some(reason) = &line.reason {
            row["why"] = json!(reason);
        }
    }
    if c.control {
        row["ctl"] = json!(true);
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn numbers_are_short_and_safe() {
        assert_eq!(number(Some(0.123_456_789)).to_string(), "0.123457");
        assert_eq!(number(Some(-1_234_567.0)).to_string(), "-1234570.0");
        assert!(!number(Some(1e-310)).is_null());
        assert!(number(Some(f64::NAN)).is_null() && number(None).is_null());
    }
}
