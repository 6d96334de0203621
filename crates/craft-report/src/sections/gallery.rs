//! Shells of the gallery and the drill-down; the script fills them.

use crate::html::{absent, esc};
use crate::rewards::Context;

pub(crate) fn pairs(ctx: &Context<'_>) -> String {
    if ctx.pairs.is_empty() {
        return absent("Evaluation pictures");
    }
    let mut options = String::new();
    for r in &ctx.rewards {
        options +=
            &format!("<option value=\"{0}\">{0} ({1})</option>", esc(&r.name), r.role.words());
    }
    let control = if ctx.has_control {
        ""
    } else {
        "<p class=\"absent\">Random control: not in this run.</p>\n"
    };
    format!(
        "<div class=\"tools\" role=\"group\" aria-label=\"Order and filter\">\
         <label>change of <select id=\"g-reward\">{options}</select></label>\
         <span class=\"segments\" id=\"g-order\" role=\"group\" aria-label=\"Order\">\
         <button type=\"button\" data-order=\"worst\" aria-pressed=\"true\">worst first</button>\
         <button type=\"button\" data-order=\"best\" aria-pressed=\"false\">best first</button>\
         <button type=\"button\" data-order=\"random\" aria-pressed=\"false\">random</button>\
         <button type=\"button\" data-order=\"prompt\" aria-pressed=\"false\">in order</button></span>\
         <label>prompt has <input id=\"g-text\" type=\"search\" placeholder=\"words\"></label>\
         <span id=\"g-count\" class=\"fine\" role=\"status\"></span></div>\n{control}\
         <p class=\"fine\">The pairs that lost most come first, so that nothing bad stays hidden; they are the exceptions, \
         not the average. “Best first” and “random” show the others.</p>\n\
         <div id=\"g-grid\" class=\"pairs\"></div>\n\
         <p class=\"more\"><button type=\"button\" id=\"g-more\">Show more</button></p>\n\
         <p class=\"fine\">Arrow keys move between pairs, Enter opens one in large; there, arrows step on and F flips base and tuned in place.</p>\n\
         <noscript><p class=\"absent\">The gallery needs JavaScript.</p></noscript>\n"
    )
}

pub(crate) fn drill(ctx: &Context<'_>) -> String {
    if ctx.run.candidates.is_none() {
        return absent("Candidates");
    }
    let mut missing = String::new();
    if ctx.run.rewards.is_none() {
        missing += &absent("Rewards of candidates");
    }
    if ctx.run.selection.is_none() {
        missing += &absent("Selection");
    }
    format!(
        "{missing}<div class=\"drill\"><div class=\"side\"><div class=\"tools\">\
         <label>prompt has <input id=\"d-text\" type=\"search\" placeholder=\"words\"></label>\
         <label>show <select id=\"d-show\"><option value=\"all\">all</option><option value=\"selected\">with a selected one</option>\
         <option value=\"passed\">with one that passed</option><option value=\"none\">none passed</option></select></label></div>\
         <p id=\"d-count\" class=\"fine\" role=\"status\"></p>\
         <ul id=\"d-list\" aria-label=\"Training prompts\"></ul></div>\
         <div id=\"d-detail\" class=\"detail\" aria-live=\"polite\"></div></div>\n\
         <noscript><p class=\"absent\">The drill-down needs JavaScript.</p></noscript>\n"
    )
}
