//! The random control: as many candidates as were selected, drawn without looking at rewards.

use serde::{Deserialize, Serialize};

use super::table::ScoreTable;
use crate::prompt::{CandidateId, PromptId};
use crate::rng::Key;

/// One line of `selection/control.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ControlRow {
    /// The candidate (variant ≥ 1).
    pub id: CandidateId,
    /// Its prompt.
    pub prompt_id: PromptId,
    /// Always 1.
    pub weight: f64,
}

/// A control that cannot be drawn.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the random control needs {wanted} candidates with variant 1 or more, but there are {available}: lower select.max_samples or generate more"
)]
pub struct ControlError {
    /// How many were asked for.
    pub wanted: usize,
    /// How many different ones there are.
    pub available: usize,
}

/// `n` different candidates with variant ≥ 1, every choice equally likely, with weight 1, in the
/// order of their ids. The order and duplicates of `candidates` do not matter.
pub fn random_control(
    n: usize,
    key: &Key,
    candidates: &[CandidateId],
) -> Result<Vec<ControlRow>, ControlError> {
    let mut pool: Vec<&CandidateId> = candidates.iter().filter(|id| id.variant >= 1).collect();
    pool.sort();
    pool.dedup();
    draw(n, key, pool.len(), |place| pool[place].clone())
}

/// The same from the candidates of a table.
///
/// # Errors
/// When there are fewer than `n`.
pub fn random_control_of(
    n: usize,
    key: &Key,
    table: &ScoreTable,
) -> Result<Vec<ControlRow>, ControlError> {
    let mut pool = table.in_order();
    pool.retain(|row| table.variant(*row) >= 1);
    draw(n, key, pool.len(), |place| table.id(pool[place]))
}

fn draw(
    n: usize,
    key: &Key,
    available: usize,
    id: impl Fn(usize) -> CandidateId,
) -> Result<Vec<ControlRow>, ControlError> {
    if n > available {
        return Err(ControlError { wanted: n, available });
    }
    let mut drawn = key.stream().sample_without_replacement(available, n);
    drawn.sort_unstable();
    let row = |id: CandidateId| ControlRow { prompt_id: id.prompt.clone(), id, weight: 1.0 };
    Ok(drawn.into_iter().map(|place| row(id(place))).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn draws_variants_only_without_regard_to_order() {
        let mut ids: Vec<CandidateId> = (0..10)
            .flat_map(|p| (0..4).map(move |v| CandidateId::new(PromptId::from_index(p), v, 0)))
            .collect();
        let key = Key::new(1).stage("control");
        let rows = random_control(12, &key, &ids).unwrap();
        assert_eq!(rows.len(), 12);
        assert!(rows.iter().all(|r| r.id.variant >= 1 && r.weight == 1.0));
        assert!(rows.windows(2).all(|w| w[0].id < w[1].id));
        ids.reverse();
        ids.extend_from_within(..5);
        assert_eq!(random_control(12, &key, &ids).unwrap(), rows);
        assert_ne!(random_control(12, &key.clone().step(1), &ids).unwrap(), rows);
        assert_eq!(random_control(31, &key, &ids), Err(ControlError { wanted: 31, available: 30 }));
        assert_eq!(random_control(30, &key, &ids).unwrap().len(), 30);
    }
}
