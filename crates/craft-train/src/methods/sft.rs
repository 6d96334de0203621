//! Supervised fine-tuning on all candidates of expanded prompts.

use super::{Data, Method, common, method};
use crate::error::Result;
use crate::pool::{Pool, Units, singles};

fn units(pool: &Pool<'_>) -> Result<Units> {
    let expanded = pool.ids()?.into_iter().filter(|id| id.variant >= 1);
    Ok(singles(expanded.map(|id| (id, 1.0))))
}

const DATA: Data = Data::Candidates { units, scored: false, within_prompt: false };

pub(super) const METHODS: &[Method] =
    &[method("sft", "all candidates, weights 1", DATA, common, 1)];
