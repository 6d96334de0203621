//! CRAFT: what passes the composite reward filter, weighted by its group advantage (arXiv 2603.18991, equations 6 to 9).

use super::{Data, Method, common, method};
use crate::error::Result;
use crate::pool::{Pool, Units, singles};

fn units(pool: &Pool<'_>) -> Result<Units> {
    Ok(singles(pool.selected()?))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

const fn filtered(
    name: &'static str,
    about: &'static str,
    filter: &'static [&'static str],
) -> Method {
    Method { filter: Some(filter), ..method(name, about, DATA, common, 1) }
}

pub(super) const METHODS: &[Method] = &[
    method("craft", "CRAFT with the recipe's filter", DATA, common, 1),
    filtered("craft-h", "CRAFT, filter of HPS alone", &["hps"]),
    filtered("craft-ha", "CRAFT, filter of HPS and the aesthetic score", &["hps", "aes"]),
    filtered(
        "craft-hpa",
        "CRAFT, filter of HPS, PickScore and the aesthetic score",
        &["hps", "pick", "aes"],
    ),
    filtered("craft-none", "CRAFT without a filter: the best by advantage", &[]),
];
