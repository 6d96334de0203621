//! Reward-weighted regression (Peters & Schaal 2007; Lee et al. 2023): all candidates, weighted by the softmax of their
//! total over those of the prompt.

use super::{Data, Method, common, method};
use crate::error::Result;
use crate::pool::{Chosen, Pool, Units, singles};

/// `G · softmax(total)` over a group: mean 1 over the group, and so over the pool.
fn softmax(group: &[Chosen]) -> Vec<Chosen> {
    let top = group.iter().map(|c| c.1).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = group.iter().map(|c| (c.1 - top).exp()).sum();
    let n = group.len() as f64;
    group.iter().map(|(id, t)| (id.clone(), n * (t - top).exp() / sum)).collect()
}

fn units(pool: &Pool<'_>) -> Result<Units> {
    Ok(singles(pool.groups(false)?.iter().flat_map(|group| softmax(group))))
}

const DATA: Data = Data::Candidates { units, scored: true, within_prompt: true };

pub(super) const METHODS: &[Method] =
    &[method("rwr", "RWR: softmax-of-reward weights", DATA, common, 1)];
