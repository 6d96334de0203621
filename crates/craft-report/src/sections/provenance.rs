//! Provenance: recipe, seeds, stages with times, versions and hashes, the command to make the run again.

use craft_store::Manifest;
use maud::{Markup, html};
use serde_json::Value;

use crate::html::{absent, bytes, count, duration};
use crate::rewards::Context;
use crate::run::StageRecord;

pub(crate) fn render(ctx: &Context<'_>) -> Markup {
    let run = ctx.run;
    let said = run.summary.as_ref().and_then(|s| s.get("command")).map(words);
    let command = said
        .unwrap_or_else(|| format!("craft run {}/recipe.toml --out {0}-again", shell(&run.name)));
    let seeds = run.recipe.as_deref().map(seeds).unwrap_or_default();
    html! {
        div.card {
            h3 { "Make it again" }
            pre.command { code { (command) } }
            @if !seeds.is_empty() {
                p {
                    "Seeds: "
                    @for (i, seed) in seeds.iter().enumerate() { @if i > 0 { ", " } code { (seed) } }
                }
            }
        }
        div.card { h3 { "Stages" } (stages(&run.stages)) }
        @match &run.summary {
            Some(summary) => {
                @let text = serde_json::to_string_pretty(summary).unwrap_or_default();
                details { summary { "run.json" } pre { code { (text) } } }
            }
            None => { (absent("run.json")) }
        }
        details {
            summary { "recipe.toml" }
            @match &run.recipe {
                Some(recipe) => { pre { code { (recipe) } } }
                None => { (absent("recipe.toml")) }
            }
        }
    }
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

fn stages(stages: &[StageRecord]) -> Markup {
    if stages.is_empty() {
        return absent("stage.json files");
    }
    let total: f64 = stages.iter().map(|s| s.manifest.seconds).sum();
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "folder" } th { "stage" } th.n { "time" } th { "share" } th { "counts" }
                        th.n { "dropped" } th { "code" } th { "config" } th { "hashes" }
                    }
                }
                tbody { @for stage in stages { (row(stage, total)) } }
            }
        }
        p.fine { "Stages together: " (duration(total)) "." }
    }
}

fn row(StageRecord { folder, manifest }: &StageRecord, total: f64) -> Markup {
    let share = manifest.seconds / total.max(1e-9) * 100.0;
    let hash = &manifest.config_hash;
    html! {
        tr {
            th scope="row" { (folder) }
            td { (manifest.stage) " v" (manifest.version) }
            td.n { (duration(manifest.seconds)) }
            td { span.track { span style=(format!("width:{share:.1}%")) {} } }
            td {
                @for (i, (name, n)) in manifest.counts.iter().enumerate() {
                    @if i > 0 { br; }
                    (name) " " (n)
                }
            }
            td.n { (manifest.dropped.len()) }
            td { (manifest.code_version) }
            td { code title=(hash) { (hash.chars().take(10).collect::<String>()) } }
            td { (files(manifest)) }
        }
    }
}

fn files(stage: &Manifest) -> Markup {
    let listed = stage.listed.as_ref();
    let n = stage.inputs.len() + stage.outputs.len() + listed.map_or(0, |l| l.files as usize);
    if n == 0 {
        return html! { "–" };
    }
    let pictures = stage.outputs.keys().filter(|n| is_picture(n)).count();
    html! {
        details {
            summary { (count(n, "file")) }
            ul {
                @for (name, hash) in &stage.inputs { li { "in " b { (name) } " " code { (hash) } } }
                @if let Some(listed) = listed {
                    li {
                        "out " (count(listed.files as usize, "file")) " (" (bytes(listed.bytes as f64))
                        ", hashes in outputs.jsonl) " code { (listed.list.sha256) }
                    }
                }
                @if pictures > 0 { li { "out " (count(pictures, "picture")) " (hashes in stage.json)" } }
                @for (name, output) in stage.outputs.iter().filter(|(n, _)| !is_picture(n)) {
                    li {
                        "out " b { (name) } " (" (bytes(output.bytes as f64)) ") " code { (output.sha256) }
                    }
                }
            }
        }
    }
}

fn is_picture(name: &str) -> bool {
    [".png", ".jpg", ".jpeg", ".webp"].iter().any(|end| name.ends_with(end))
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
