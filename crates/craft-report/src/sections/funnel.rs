//! Selection: the funnel, reasons, dropped candidates, weights, how rewards agree.

use crate::charts;
use crate::funnel::Funnel;
use crate::html::{absent, esc};
use crate::rewards::Context;
use crate::stats;

pub(crate) fn render(ctx: &Context<'_>, f: &Funnel) -> String {
    if ctx.run.candidates.is_none() && ctx.run.selection.is_none() {
        return absent("Candidates and selection");
    }
    let mut out = String::from("<div class=\"columns\"><div class=\"card\"><h3>Funnel</h3>\n");
    out += &bars(ctx, f);
    out += "</div>\n<div class=\"card\"><h3>Why candidates fell</h3>\n";
    out += &reasons(f);
    out += "</div></div>\n<div class=\"charts\">\n";
    out += &charts::bars("Weights of the selected samples", "weight in the loss", &f.weights, 20);
    out += &agreement(ctx);
    out + "</div>\n"
}

fn bars(ctx: &Context<'_>, f: &Funnel) -> String {
    let whole = f.candidates.max(f.judged).max(1);
    let bar = |label: &str, class: &str, n: usize, of: usize, what: &str| {
        let share = n as f64 / of.max(1) as f64 * 100.0;
        format!(
            "<li class=\"{class}\"><span class=\"name\">{}</span><span class=\"track\"><span style=\"width:{:.1}%\"></span></span>\
             <span class=\"n\">{n}</span><span class=\"share\">{share:.0} % of {what}</span></li>\n",
            esc(label),
            n as f64 / whole as f64 * 100.0
        )
    };
    let mut out = String::from("<ol class=\"funnel\">\n");
    if f.candidates > 0 {
        out += &bar(
            "candidates drawn",
            "",
            f.candidates,
            f.candidates,
            &format!("all, over {} prompts", f.prompts),
        );
    }
    if let Some(rewards) = &ctx.run.rewards {
        let scored = rewards
            .values()
            .filter(|l| l.missing.is_empty() && l.scores.values().all(Option::is_some))
            .count();
        out += &bar("scored by every reward", "", scored, whole, "candidates");
    }
    if ctx.run.selection.is_none() {
        return out + "</ol>\n" + &absent("Selection");
    }
    out += &bar("other wordings, judged", "", f.judged, whole, "candidates");
    for (reward, n) in &f.passed_by {
        out += &bar(&format!("passed {reward}"), "single", *n, f.judged, "judged");
    }
    out += &bar("passed the filter", "", f.passed, f.judged, "judged");
    out += &bar("selected to train on", "final", f.selected, f.passed, "passed");
    out += "</ol>\n";
    out + &format!(
        "<p class=\"fine\">{} of {} prompts have a candidate that passed, {} a selected one. The bars of single rewards are \
         independent of each other.{}</p>\n",
        f.prompts_passed,
        f.prompts,
        f.prompts_selected,
        ctx.run.control.as_ref().map_or_else(String::new, |c| format!(
            " The random control trains on {} candidates.",
            c.len()
        ))
    )
}

fn reasons(f: &Funnel) -> String {
    let mut out = String::new();
    if f.reasons.is_empty() {
        out += "<p class=\"absent\">No reasons recorded.</p>\n";
    } else {
        out += &list(f.reasons.iter().map(|(r, n)| (r.clone(), *n)));
    }
    out += "<h3>Dropped by stages</h3>\n";
    if f.dropped.is_empty() {
        return out
            + "<p class=\"absent\">Nothing was dropped for an error or a missing score.</p>\n";
    }
    out + &list(
        f.dropped
            .iter()
            .map(|(stage, reason, n, id)| (format!("{stage}: {reason} (first: {id})"), *n)),
    )
}

fn list(rows: impl Iterator<Item = (String, usize)>) -> String {
    let items: String = rows
        .take(12)
        .map(|(text, n)| format!("<tr><td class=\"n\">{n}</td><td>{}</td></tr>", esc(&text)))
        .collect();
    format!("<table class=\"reasons\"><tbody>{items}</tbody></table>\n")
}

/// Rank correlation of rewards over candidates, each against the mean of its prompt.
fn agreement(ctx: &Context<'_>) -> String {
    let (Some(candidates), Some(scores)) = (&ctx.run.candidates, &ctx.run.rewards) else {
        return String::new();
    };
    let names: Vec<&str> = ctx.rewards.iter().map(|r| r.name.as_str()).collect();
    let mut groups: std::collections::BTreeMap<&str, Vec<Vec<f64>>> =
        std::collections::BTreeMap::new();
    let shared: Vec<&str> = names
        .into_iter()
        .filter(|n| scores.values().any(|l| l.scores.get(*n).copied().flatten().is_some()))
        .collect();
    for c in candidates {
        let Some(line) = scores.get(&c.id) else {
            continue;
        };
        let row: Option<Vec<f64>> =
            shared.iter().map(|n| line.scores.get(*n).copied().flatten()).collect();
        if let Some(row) = row {
            groups.entry(&c.prompt_id).or_default().push(row);
        }
    }
    if shared.len() < 2 || groups.is_empty() {
        return String::new();
    }
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); shared.len()];
    for rows in groups.values() {
        for (i, column) in columns.iter_mut().enumerate() {
            let values: Vec<f64> = rows.iter().map(|r| r[i]).collect();
            let centre = stats::mean(&values).unwrap_or(0.0);
            column.extend(values.iter().map(|v| v - centre));
        }
    }
    let mut out = String::from(
        "<figure class=\"chart\"><figcaption><b>How rewards agree within a prompt</b></figcaption><div class=\"scroll\"><table class=\"matrix\"><thead><tr><th></th>",
    );
    for n in &shared {
        out += &format!("<th>{}</th>", esc(n));
    }
    out += "</tr></thead><tbody>";
    for (i, n) in shared.iter().enumerate() {
        out += &format!("<tr><th scope=\"row\">{}</th>", esc(n));
        for j in 0..shared.len() {
            let r = if i == j { Some(1.0) } else { stats::spearman(&columns[i], &columns[j]) };
            out += &r.map_or_else(
                || "<td>–</td>".to_owned(),
                |r| {
                    format!(
                        "<td style=\"--r:{:.0}%\">{}</td>",
                        r.abs() * 60.0,
                        format!("{r:.2}").replace('-', "−")
                    )
                },
            );
        }
        out += "</tr>";
    }
    out + "</tbody></table></div><p class=\"fine\">Spearman's rank correlation over candidates, centred on each prompt. Rewards that agree fully \
           filter no more than one of them would.</p></figure>\n"
}
