//! RAFT (Dong et al. 2023): the best candidate of each prompt.

use super::{Data, Method, common, method};
use crate::error::Result;
use crate::pool::{Pool, Units, ends, singles};

fn units(pool: &Pool<'_>) -> Result<Units> {
    let groups = pool.groups(false)?;
    Ok(singles(groups.iter().filter_map(|g| Some((ends(g)?.0.0.clone(), 1.0)))))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: true };

pub(super) const METHODS: &[Method] =
    &[method("raft", "RAFT: the best candidate of each prompt", DATA, common, 1)];
