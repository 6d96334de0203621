//! What a comparison shows, in sentences: which differences can be told from nothing, and which cannot.

use serde_json::{Map, Value, json};

/// Where a method stands against another model.
enum Standing {
    Higher(String),
    Lower(String),
    Open(String),
    /// Too few seeds for an interval.
    Unknown(String),
}

/// `conclusion` of `compare.json`, from the rest of it.
pub(super) fn of(compared: &Value) -> Value {
    let none = Map::new();
    let methods = compared["methods"].as_object().unwrap_or(&none);
    let decisive = compared["decisive"].as_str().unwrap_or_default();
    let standings = |key: &str| -> Vec<Standing> {
        methods
            .iter()
            .filter_map(|(name, method)| standing(name, &method["rewards"][decisive][key]))
            .collect()
    };
    let against_base = standings("change");
    let mut against_craft = standings("change_against_craft");
    if !methods.contains_key("craft") {
        against_craft.clear();
    }
    let seeds = compared["seeds"].as_array().map_or(0, Vec::len);
    let prompts = compared["evaluation_prompts"].as_u64().unwrap_or(0);
    let counted = against_base.iter().chain(&against_craft);
    let comparisons = counted.clone().filter(|s| !matches!(s, Standing::Unknown(_))).count();
    let clear = counted.filter(|s| matches!(s, Standing::Higher(_) | Standing::Lower(_))).count();
    let mut sentences = Vec::new();
    if comparisons == 0 && !against_base.is_empty() {
        sentences.push(format!(
            "Nothing can be told apart: {seeds} seed(s) give no interval over seeds, so every difference may be chance. Compare over more seeds (--seeds)."
        ));
    } else if clear == 0 && comparisons > 0 {
        sentences.push(format!(
            "Nothing can be told apart on {decisive}: with {seeds} seeds and {prompts} prompts no method differs from the base model or from CRAFT by more than chance could. More seeds (--seeds) or evaluation prompts would narrow the intervals."
        ));
    }
    if comparisons > 0 {
        sentences.extend(sentence(&format!("Against the base model on {decisive}"), &against_base));
        sentences.extend(sentence(&format!("Against CRAFT on {decisive}"), &against_craft));
    }
    if comparisons > 1 {
        sentences.push(format!(
            "These are {comparisons} comparisons, each with an interval of 95 % and not corrected for their number: about {:.1} of them would be clear of zero by chance alone.",
            comparisons as f64 * 0.05
        ));
    }
    json!({ "comparisons": comparisons, "told_apart": clear, "sentences": sentences })
}

fn standing(name: &str, difference: &Value) -> Option<Standing> {
    let mean = difference["mean"].as_f64()?;
    let ends = (difference["ci95"][0].as_f64(), difference["ci95"][1].as_f64());
    let (Some(low), Some(high)) = ends else {
        return Some(Standing::Unknown(format!("{name} ({mean:+.3})")));
    };
    let words = format!("{name} ({mean:+.3}, {low:+.3} to {high:+.3})");
    Some(match (low > 0.0, high < 0.0) {
        (true, _) => Standing::Higher(words),
        (_, true) => Standing::Lower(words),
        _ => Standing::Open(words),
    })
}

fn sentence(about: &str, standings: &[Standing]) -> Option<String> {
    let pick = |of: fn(&Standing) -> Option<&String>| {
        let found: Vec<&str> = standings.iter().filter_map(of).map(String::as_str).collect();
        (!found.is_empty()).then(|| found.join(", "))
    };
    let parts = [
        ("higher", pick(|s| if let Standing::Higher(w) = s { Some(w) } else { None })),
        ("lower", pick(|s| if let Standing::Lower(w) = s { Some(w) } else { None })),
        (
            "cannot be told from no difference",
            pick(|s| if let Standing::Open(w) = s { Some(w) } else { None }),
        ),
        ("no interval", pick(|s| if let Standing::Unknown(w) = s { Some(w) } else { None })),
    ];
    let words: Vec<String> =
        parts.into_iter().filter_map(|(what, who)| Some(format!("{what}: {}", who?))).collect();
    (!words.is_empty()).then(|| format!("{about}: {}.", words.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(methods: Value) -> Vec<String> {
        let json = json!({"seeds": [1, 2], "evaluation_prompts": 32, "decisive": "ir", "methods": methods});
        let sentences = of(&json)["sentences"].clone();
        sentences.as_array().into_iter().flatten().map(|s| s.to_string()).collect()
    }

    fn method(change: [f64; 2], against: Value) -> Value {
        let mean = (change[0] + change[1]) / 2.0;
        json!({"rewards": {"ir": {"change": {"mean": mean, "ci95": change}, "change_against_craft": against}}})
    }

    #[test]
    fn what_is_clear_of_zero_is_told_apart() {
        let lead = json!({"mean": 0.02, "ci95": [-0.1, 0.14]});
        let said = compared(json!({
            "craft": method([0.1, 0.3], Value::Null),
            "dpo": method([-0.3, -0.1], json!({"mean": -0.4, "ci95": [-0.5, -0.3]})),
            "kto": method([-0.1, 0.3], lead),
        }));
        let base =
            said.iter().find(|s| s.contains("base model on ir")).cloned().unwrap_or_default();
        assert!(base.contains("higher: craft (+0.200, +0.100 to +0.300)"), "{base}");
        assert!(base.contains("lower: dpo") && base.contains("no difference: kto"), "{base}");
        let craft = said.iter().find(|s| s.contains("Against CRAFT")).cloned().unwrap_or_default();
        assert!(craft.contains("lower: dpo") && craft.contains("no difference: kto"), "{craft}");
        assert!(said.iter().any(|s| s.contains("5 comparisons")), "{said:?}");
        assert!(!said.iter().any(|s| s.contains("Nothing can be told apart")), "{said:?}");
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let said = compared(json!({
            "craft": method([-0.138, 0.118], Value::Null),
            "dpo": method([-0.1, 0.114], json!({"mean": 0.017, "ci95": [-0.2, 0.2]})),
        }));
        assert!(
            said[0].contains("Nothing can be told apart on ir: with 2 seeds and 32"),
            "{said:?}"
        );
        let one = json!({"rewards": {"ir": {"change": {"mean": 0.2, "ci95": null}}}});
        let said = compared(json!({ "craft": one }));
        assert!(said.len() == 1 && said[0].contains("more seeds"), "{said:?}");
        assert!(compared(json!({})).is_empty());
    }
}
