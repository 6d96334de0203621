//! The random control: as many candidates as CRAFT selects, without looking at them.

use craft_core::Key;
use craft_core::select::random_control;

use super::{Data, Method, common, method};
use crate::error::Result;
use crate::pool::{Pool, Units, singles};

fn units(pool: &Pool<'_>) -> Result<Units> {
    let n = pool.selected()?.len();
    let rows = random_control(n, &Key::new(pool.recipe.seed).stage("control"), &pool.ids()?)?;
    Ok(singles(rows.into_iter().map(|row| (row.id, row.weight))))
}

const DATA: Data = Data::Candidates { units, scored: false, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("random", "as many random candidates, weights 1", DATA, common, 1)];
