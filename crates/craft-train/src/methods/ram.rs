//! RAM (arXiv 2605.10759, equation 17) on candidates that were drawn once: signed advantages, and a pull of weight 1 to
//! the base model.

use craft_core::recipe::TrainSection;

use super::{ADVANTAGE_LIMIT, Data, Method, advantages, method};
use crate::error::Result;
use crate::objective::{Common, Objective};
use crate::pool::{Pool, Units, singles};

fn units(pool: &Pool<'_>) -> Result<Units> {
    let number = |a: f64| a.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT);
    Ok(singles(advantages(pool, number)?))
}

fn objective(section: &TrainSection) -> Box<dyn Objective> {
    let mut form = Common::of(section);
    if section.form.pull.is_none() {
        form.pull = 1.0;
    }
    Box::new(form)
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("ram", "RAM, offline: signed advantages and a pull to the base", DATA, objective, 1)];
