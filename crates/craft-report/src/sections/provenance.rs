//! Provenance: recipe, seeds, stages with times, versions and hashes, the command to make the run again.

use serde_json::Value;

use crate::html::{absent, bytes, duration, esc};
use crate::rewards::Context;
use crate::run::Stage;

pub(crate) fn render(ctx: &Context<'_>) -> String {
    let mut out = String::from("<div class=\"card\"><h3>Make it again</h3>\n");
    let said = ctx.run.summary.as_ref().and_then(|s| s.get("command")).map(words);
    let command = said.unwrap_or_else(|| {
        format!("craft run {}/recipe.toml --out {0}-again", shell(&ctx.run.name))
    });
    out += &format!("<pre class=\"command\"><code>{}</code></pre>\n", esc(&command));
    if let Some(recipe) = &ctx.run.recipe {
        let seeds = seeds(recipe);
        if !seeds.is_empty() {
            out += &format!(
                "<p>Seeds: {}</p>\n",
                seeds
                    .iter()
                    .map(|s| format!("<code>{}</code>", esc(s)))
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
    }
    out += "</div>\n<div class=\"card\"><h3>Stages</h3>\n";
    out += &stages(&ctx.run.stages);
    out += "</div>\n";
    out += &summary(ctx.run.summary.as_ref());
    out += "<details><summary>recipe.toml</summary>";
    out += &ctx
        .run
        .recipe
        .as_ref()
        .map_or_else(|| absent("recipe.toml"), |r| format!("<pre><code>{}</code></pre>", esc(r)));
    out + "</details>\n"
}

fn words(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Array(parts) => parts
            .iter()
            .map(|p| shell(p.as_str().unwrap_or_default()))
            .collect::<Vec<_>>()
            .join(" "),
        other => other.to_string(),
    }
}

fn shell(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_./=+:,".contains(&b);
    if !text.is_empty() && text.bytes().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

/// `section.key = value` of all keys with `seed` in their name.
fn seeds(recipe: &str) -> Vec<String> {
    let mut section = String::new();
    let mut out = Vec::new();
    for line in recipe.lines().map(str::trim) {
        if line.starts_with('[') {
            section = format!("{}.", line.trim_matches(['[', ']']));
        } else if let Some((key, value)) = line.split_once('=')
            && key.contains("seed")
            && !key.starts_with('#')
        {
            out.push(format!("{section}{} = {}", key.trim(), value.trim()));
        }
    }
    out
}

fn stages(stages: &[Stage]) -> String {
    if stages.is_empty() {
        return absent("stage.json files");
    }
    let total: f64 = stages.iter().filter_map(|s| s.seconds).sum();
    let mut out = String::from(
        "<div class=\"scroll\"><table><thead><tr><th>folder</th><th>stage</th><th class=\"n\">time</th><th>share</th><th>counts</th><th class=\"n\">dropped</th><th>code</th>\
         <th>config</th><th>hashes</th></tr></thead><tbody>\n",
    );
    for s in stages {
        let share = s.seconds.map_or(0.0, |t| t / total.max(1e-9) * 100.0);
        let counts: Vec<String> =
            s.counts.iter().map(|(k, v)| format!("{} {}", esc(k), esc(&v.to_string()))).collect();
        let version = s.version.map_or_else(String::new, |v| format!(" v{v}"));
        out += &format!(
            "<tr><th scope=\"row\">{}</th><td>{}{version}</td><td class=\"n\">{}</td><td><span class=\"track\"><span style=\"width:{share:.1}%\"></span></span></td>\
             <td>{}</td><td class=\"n\">{}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
            esc(&s.folder),
            esc(&s.stage),
            s.seconds.map_or_else(|| "–".to_owned(), duration),
            counts.join("<br>"),
            s.dropped.len(),
            esc(s.code_version.as_deref().unwrap_or("–")),
            hash(s.config_hash.as_deref()),
            files(s)
        );
    }
    out + &format!(
        "</tbody></table></div>\n<p class=\"fine\">Stages together: {}.</p>\n",
        duration(total)
    )
}

fn hash(text: Option<&str>) -> String {
    text.map_or_else(
        || "–".to_owned(),
        |t| {
            format!(
                "<code title=\"{}\">{}</code>",
                esc(t),
                esc(&t.chars().take(10).collect::<String>())
            )
        },
    )
}

fn files(stage: &Stage) -> String {
    let mut rows = String::new();
    for (name, value) in &stage.inputs {
        rows += &format!(
            "<li>in <b>{}</b> <code>{}</code></li>",
            esc(name),
            esc(value.as_str().unwrap_or(&value.to_string()))
        );
    }
    let pictures = stage.outputs.keys().filter(|n| is_picture(n)).count();
    if pictures > 0 {
        rows += &format!(
            "<li>out {} (hashes in stage.json)</li>",
            crate::html::count(pictures, "picture")
        );
    }
    for (name, value) in stage.outputs.iter().filter(|(n, _)| !is_picture(n)) {
        let sha =
            value.get("sha256").and_then(Value::as_str).or_else(|| value.as_str()).unwrap_or("–");
        let size = value
            .get("bytes")
            .and_then(Value::as_f64)
            .map_or_else(String::new, |b| format!(" ({})", bytes(b)));
        rows += &format!("<li>out <b>{}</b>{size} <code>{}</code></li>", esc(name), esc(sha));
    }
    let n = stage.inputs.len() + stage.outputs.len();
    if n == 0 {
        "–".to_owned()
    } else {
        format!(
            "<details><summary>{}</summary><ul>{rows}</ul></details>",
            crate::html::count(n, "file")
        )
    }
}

fn is_picture(name: &str) -> bool {
    [".png", ".jpg", ".jpeg", ".webp"].iter().any(|end| name.ends_with(end))
}

fn summary(summary: Option<&Value>) -> String {
    let Some(summary) = summary else {
        return absent("run.json");
    };
    let text = serde_json::to_string_pretty(summary).unwrap_or_default();
    format!(
        "<details><summary>run.json</summary><pre><code>{}</code></pre></details>\n",
        esc(&text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_found_with_their_section() {
        assert_eq!(
            seeds("seed = 7\n# seed = 1\n[sample]\nnoise_seed=3\nsteps = 4"),
            ["seed = 7", "sample.noise_seed = 3"]
        );
        assert_eq!(shell("a b"), "'a b'");
    }
}
