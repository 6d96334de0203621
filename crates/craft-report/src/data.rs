//! What the gallery and the drill-down need, as JSON for the page's script.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::ReportError;
use crate::images::Pictures;
use crate::rewards::{Context, Pair};
use crate::run::{Candidate, Sample};

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
    let names = ctx.run.samples.iter().flatten().filter_map(|s| s.image.as_deref());
    let set = pictures.set("evaluation", names);
    let mut out = Vec::new();
    for ((prompt, sample), pair) in &ctx.pairs {
        let (mut images, mut values) = (Map::new(), Map::new());
        for (model, s) in pair.iter().filter(|(m, _)| MODELS.contains(*m)) {
            if let Some(address) =
                s.image.as_deref().map(|i| pictures.address(&set, i)).transpose()?.flatten()
            {
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
        if let Some(c) = ctx.run.prompts.get(*prompt).and_then(|p| p.category.as_ref()) {
            row["c"] = json!(c);
        }
        out.push(row);
    }
    Ok(out)
}

fn scores(ctx: &Context<'_>, sample: &Sample) -> Value {
    ctx.rewards.iter().map(|r| number(sample.scores.get(&r.name).copied().flatten())).collect()
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
    let Some(candidates) = &ctx.run.candidates else {
        return Ok(Vec::new());
    };
    let set = pictures.set("candidates", candidates.iter().filter_map(|c| c.image.as_deref()));
    let mut groups: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for c in candidates {
        groups.entry(&c.prompt_id).or_default().push(c);
    }
    let mut out = Vec::new();
    for (id, mut group) in groups {
        group.sort_by_key(|c| (c.variant, c.sample));
        let mut rows = Vec::new();
        for c in group {
            rows.push(candidate(ctx, c, &set, pictures)?);
        }
        let mut row = json!({"p": id, "t": ctx.run.prompt_text(id), "c": rows});
        if let Some(category) = ctx.run.prompts.get(id).and_then(|p| p.category.as_ref()) {
            row["k"] = json!(category);
        }
        out.push(row);
    }
    Ok(out)
}

fn candidate(
    ctx: &Context<'_>,
    c: &Candidate,
    set: &crate::images::PictureSet,
    pictures: &mut Pictures,
) -> Result<Value, ReportError> {
    let mut row = json!({"id": c.id, "v": c.variant, "s": c.sample, "t": c.text});
    if let Some(address) =
        c.image.as_deref().map(|i| pictures.address(set, i)).transpose()?.flatten()
    {
        row["i"] = json!(address);
    }
    if let Some(line) = ctx.run.rewards.as_ref().and_then(|r| r.get(&c.id)) {
        row["r"] = ctx
            .rewards
            .iter()
            .map(|r| number(line.scores.get(&r.name).copied().flatten()))
            .collect();
        if !line.missing.is_empty() {
            row["m"] = json!(line.missing);
        }
    }
    if let Some(line) = ctx.run.selection.as_ref().and_then(|s| s.get(&c.id)) {
        row["by"] = json!(line.passed_by);
        row["ok"] = json!(line.passed);
        row["tot"] = number(line.total);
        row["adv"] = number(line.advantage);
        row["w"] = number(line.weight);
        row["sel"] = json!(line.selected);
        if let Some(reason) = &line.reason {
            row["why"] = json!(reason);
        }
    }
    if ctx.run.control.as_ref().is_some_and(|ids| ids.contains(&c.id)) {
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
