//! What the methods train on, made from the candidates of a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use craft_core::select::{group_advantages, random_control, select, worst};
use craft_core::stats::mean_std;
use craft_core::{Candidate, CandidateId, Key, Prompt, PromptId, Recipe, ScoreRow, Split};
use craft_diffusion::lair::centred_weights;
use craft_diffusion::nft::optimality;
use craft_store::{TensorReader, jsonl};

use super::ablations::{Part, Spread};
use super::judge::Judge;
use super::methods::{Data, Loss};
use super::online::Term;
use crate::error::{PipelineError, Result};
use crate::stages::Run;
use craft_model::text::TextEmbedding;

/// Advantages count up to this size, as in DiffusionNFT's config.
const ADVANTAGE_LIMIT: f64 = 5.0;
/// Temperature of listwise weights, in standard deviations of the total.
const LIST_TEMPERATURE: f64 = 1.0;

/// A picture to train on.
pub(super) struct Sample {
    pub(super) id: String,
    pub(super) latents: Vec<f32>,
    /// Text that conditions the loss under `train.conditioning = "original"`.
    pub(super) original: String,
    /// The wording that it was drawn from.
    pub(super) expanded: String,
}

/// Samples that share a timestep and a noise: one picture, a pair (preferred first) or a group, each with
/// the number that the loss wants of it.
pub(super) struct Unit {
    /// Places in the samples.
    pub(super) samples: Vec<usize>,
    pub(super) values: Vec<f32>,
}

/// A training set.
pub(super) struct TrainingSet {
    pub(super) samples: Vec<Sample>,
    /// All of one length.
    pub(super) units: Vec<Unit>,
    /// Embeddings of all texts, the empty one among them.
    pub(super) texts: BTreeMap<String, Arc<TextEmbedding>>,
}

impl TrainingSet {
    pub(super) fn new(samples: Vec<Sample>, units: Vec<Unit>, judge: &Judge<'_>) -> Self {
        let texts = samples.iter().flat_map(|s| [s.original.as_str(), s.expanded.as_str()]);
        let mut texts = judge.embeddings(texts);
        let empty = judge.model.encode_negatives(&[None]).remove(0);
        texts.insert(String::new(), Arc::new(empty));
        Self { samples, units, texts }
    }

    /// Samples of a unit.
    pub(super) fn unit_length(&self) -> usize {
        self.units.first().map_or(1, |u| u.samples.len())
    }

    /// Different samples in the units.
    pub(super) fn used(&self) -> usize {
        let mut used: Vec<usize> = self.units.iter().flat_map(|u| u.samples.clone()).collect();
        used.sort_unstable();
        used.dedup();
        used.len()
    }
}

/// The candidates of a seed with their scores.
struct Pool {
    candidates: Vec<Candidate>,
    rows: Vec<ScoreRow>,
    /// r_total of each candidate that has every reward: the weighted sum of z-scores over the pool.
    totals: BTreeMap<CandidateId, f64>,
}

/// A sample's id and its number.
type Chosen = (CandidateId, f64);

/// The training set of a method that trains on candidates.
pub(super) fn of_candidates(
    run: &Run<'_>,
    recipe: &Recipe,
    part: Part,
    (data, loss): (Data, Loss),
    judge: &Judge<'_>,
) -> Result<TrainingSet> {
    let candidates: Vec<Candidate> = jsonl::read(&run.path("candidates/candidates.jsonl"))?;
    let rows: Vec<ScoreRow> = jsonl::read(&run.path("rewards/rewards.jsonl"))?;
    // All latents lie in one file, so places are those among all candidates.
    let places: BTreeMap<CandidateId, usize> =
        candidates.iter().enumerate().map(|(i, c)| (c.id.clone(), i)).collect();
    let prompts_seen = part.prompts.map(|n| {
        let mut ids: Vec<PromptId> = candidates.iter().map(|c| c.prompt_id.clone()).collect();
        ids.sort();
        ids.dedup();
        ids.into_iter().take(n).collect::<Vec<_>>()
    });
    let kept = part.spread.map(|spread| kept_wordings(&candidates, spread));
    let sees = |id: &CandidateId| {
        part.wordings.is_none_or(|n| id.variant as usize <= n)
            && kept.as_ref().is_none_or(|kept| kept.contains(&(id.prompt.clone(), id.variant)))
            && prompts_seen.as_ref().is_none_or(|seen| seen.contains(&id.prompt))
    };
    let candidates: Vec<Candidate> = candidates.into_iter().filter(|c| sees(&c.id)).collect();
    let rows: Vec<ScoreRow> = rows.into_iter().filter(|row| sees(row.id())).collect();
    let totals = totals(&rows, recipe);
    let pool = Pool { candidates, rows, totals };
    let units = pool.units(recipe, data, loss)?;
    if units.is_empty() {
        return Err(PipelineError::Usage(format!(
            "nothing to train on: no prompt has candidates that {data:?} can use; draw more, or leave the method out"
        )));
    }
    let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
    let prompts: BTreeMap<&PromptId, &str> =
        prompts.iter().map(|p| (&p.id, p.text.as_str())).collect();
    let texts: BTreeMap<&CandidateId, &str> =
        pool.candidates.iter().map(|c| (&c.id, c.text.as_str())).collect();
    let (mut samples, mut rows) = (Vec::new(), Vec::new());
    let mut known: BTreeMap<CandidateId, usize> = BTreeMap::new();
    let units = units
        .into_iter()
        .map(|unit| {
            let (ids, values): (Vec<_>, Vec<_>) = unit.into_iter().unzip();
            let place_of = |id: CandidateId| {
                *known.entry(id).or_insert_with_key(|id| {
                    rows.push(places[id]);
                    samples.push(Sample {
                        id: id.to_string(),
                        latents: Vec::new(),
                        original: prompts.get(&id.prompt).copied().unwrap_or("").to_owned(),
                        expanded: texts.get(id).copied().unwrap_or("").to_owned(),
                    });
                    samples.len() - 1
                })
            };
            Unit {
                samples: ids.into_iter().map(place_of).collect(),
                values: values.into_iter().map(|v: f64| v as f32).collect(),
            }
        })
        .collect();
    let mut latents = TensorReader::open(&run.path("candidates/latents.safetensors"))?;
    for (sample, row) in samples.iter_mut().zip(rows) {
        sample.latents = latents.read_row("latents", row)?;
    }
    Ok(TrainingSet::new(samples, units, judge))
}

/// The wordings of each prompt that a spread keeps, and the prompt itself.
fn kept_wordings(candidates: &[Candidate], spread: Spread) -> BTreeSet<(PromptId, u32)> {
    let mut texts: BTreeMap<&PromptId, BTreeMap<u32, &str>> = BTreeMap::new();
    for candidate in candidates {
        texts.entry(&candidate.prompt_id).or_default().insert(candidate.variant, &candidate.text);
    }
    let mut kept = BTreeSet::new();
    for (prompt, mut wordings) in texts {
        let own = wordings.remove(&0).unwrap_or_default();
        let (variants, all): (Vec<u32>, Vec<&str>) = wordings.into_iter().unzip();
        let places = spread.kept(own, &all);
        let variants = places.into_iter().map(|place| variants[place]).chain([0]);
        kept.extend(variants.map(|variant| (prompt.clone(), variant)));
    }
    kept
}

/// The training prompts, for methods that draw as they go.
pub(super) fn of_prompts(run: &Run<'_>, judge: &Judge<'_>) -> Result<TrainingSet> {
    let prompts: Vec<Prompt> = jsonl::read(&run.path("prompts/prompts.jsonl"))?;
    let train = prompts.into_iter().filter(|p| p.split == Split::Train);
    let samples: Vec<Sample> = train
        .map(|p| Sample {
            id: p.id.to_string(),
            latents: Vec::new(),
            original: p.text.clone(),
            expanded: p.text,
        })
        .collect();
    let units = (0..samples.len()).map(|i| Unit { samples: vec![i], values: vec![1.0] }).collect();
    Ok(TrainingSet::new(samples, units, judge))
}

/// Mean, deviation and weight of each training reward over the candidates.
pub(super) fn terms(run: &Run<'_>, recipe: &Recipe) -> Result<Vec<Term>> {
    let rows: Vec<ScoreRow> = jsonl::read(&run.path("rewards/rewards.jsonl"))?;
    let term = |reward: craft_core::select::RewardUse| {
        let scores: Vec<f64> = rows.iter().filter_map(|row| row.score(&reward.name)).collect();
        let (mean, std) = mean_std(&scores);
        Term { name: reward.name.to_string(), mean, std, weight: reward.weight }
    };
    Ok(recipe.select_options().rewards.into_iter().map(term).collect())
}

/// Weighted sums of z-scores over all rows that have every reward.
fn totals(rows: &[ScoreRow], recipe: &Recipe) -> BTreeMap<CandidateId, f64> {
    let rewards = recipe.select_options().rewards;
    let scores = |row: &ScoreRow| -> Option<Vec<f64>> {
        rewards.iter().map(|reward| row.score(&reward.name)).collect()
    };
    let whole: Vec<(&CandidateId, Vec<f64>)> =
        rows.iter().filter_map(|row| Some((row.id(), scores(row)?))).collect();
    let spread: Vec<(f64, f64)> = (0..rewards.len())
        .map(|i| mean_std(&whole.iter().map(|(_, s)| s[i]).collect::<Vec<_>>()))
        .collect();
    let total = |scores: &[f64]| -> f64 {
        let terms = scores.iter().zip(&spread).zip(&rewards);
        terms
            .filter(|((_, (_, std)), _)| *std > 0.0)
            .map(|((s, (m, std)), r)| r.weight * (s - m) / std)
            .sum()
    };
    whole.into_iter().map(|(id, scores)| (id.clone(), total(&scores))).collect()
}

impl Pool {
    /// Candidates of richer wordings, as CRAFT chooses among.
    fn wordings(&self) -> impl Iterator<Item = &Candidate> {
        self.candidates.iter().filter(|c| c.variant >= 1)
    }

    /// Candidates of each prompt that have every reward, with their totals; with or without the plain
    /// prompt's own pictures.
    fn groups(&self, plain: bool) -> Vec<Vec<Chosen>> {
        let mut groups: BTreeMap<&PromptId, Vec<Chosen>> = BTreeMap::new();
        for (id, total) in self.totals.iter().filter(|(id, _)| plain || id.variant >= 1) {
            groups.entry(&id.prompt).or_default().push((id.clone(), *total));
        }
        groups.into_values().collect()
    }

    fn units(&self, recipe: &Recipe, data: Data, loss: Loss) -> Result<Vec<Vec<Chosen>>> {
        let single = |chosen: Vec<Chosen>| chosen.into_iter().map(|c| vec![c]).collect();
        let select = || select(&self.rows, &recipe.select_options());
        let selected = || -> Result<Vec<Chosen>> {
            Ok(select()?.selected().map(|row| (row.id.clone(), row.weight)).collect())
        };
        Ok(match data {
            Data::Selected => single(selected()?),
            Data::Random => {
                let n = selected()?.len();
                let ids: Vec<CandidateId> = self.candidates.iter().map(|c| c.id.clone()).collect();
                let rows = random_control(n, &Key::new(recipe.seed).stage("control"), &ids)?;
                single(rows.into_iter().map(|row| (row.id, row.weight)).collect())
            }
            Data::All => single(self.wordings().map(|c| (c.id.clone(), 1.0)).collect()),
            Data::Best => single(
                self.groups(false)
                    .iter()
                    .filter_map(|g| Some((ends(g)?.0.0.clone(), 1.0)))
                    .collect(),
            ),
            Data::Softmax => single(self.groups(false).iter().flat_map(|g| softmax(g)).collect()),
            Data::RewardPairs => self
                .groups(true)
                .iter()
                .filter_map(|g| ends(g).filter(|(best, worst)| best.1 > worst.1))
                .map(|(best, worst)| vec![(best.0.clone(), 1.0), (worst.0.clone(), 0.0)])
                .collect(),
            Data::RewardLabels => {
                let pairs = self.groups(true);
                let ends = pairs.iter().filter_map(|g| ends(g).filter(|(b, w)| b.1 > w.1));
                single(ends.flat_map(|(b, w)| [(b.0.clone(), 1.0), (w.0.clone(), 0.0)]).collect())
            }
            Data::SelectedLiked => {
                single(selected()?.into_iter().map(|(id, _)| (id, 1.0)).collect())
            }
            Data::SelectedLabels => {
                let rows = select()?.rows;
                let liked = rows.iter().filter(|row| row.selected).map(|row| (row, 1.0));
                let labels = liked.chain(worst(&rows).into_iter().map(|row| (row, 0.0)));
                single(labels.map(|(row, label)| (row.id.clone(), label)).collect())
            }
            Data::Groups => {
                let groups = self.groups(true);
                let size = groups.iter().map(Vec::len).max().unwrap_or(0);
                let spread = mean_std(&self.totals.values().copied().collect::<Vec<_>>()).1;
                // A group that lacks a picture would not fit beside the others.
                let whole = groups.into_iter().filter(|g| g.len() == size && size > 1);
                whole
                    .map(|group| {
                        let totals: Vec<f64> = group.iter().map(|c| c.1).collect();
                        let weights =
                            centred_weights(&totals, LIST_TEMPERATURE * spread.max(1e-12));
                        group.into_iter().zip(weights).map(|((id, _), w)| (id, w)).collect()
                    })
                    .collect()
            }
            Data::Advantages => {
                let number = |a: f64| match loss {
                    Loss::Nft(_) => optimality(a, ADVANTAGE_LIMIT),
                    _ => a.clamp(-ADVANTAGE_LIMIT, ADVANTAGE_LIMIT),
                };
                let advantages = |group: Vec<Chosen>| -> Vec<Chosen> {
                    let totals: Vec<f64> = group.iter().map(|c| c.1).collect();
                    // A group without variance says nothing.
                    let found = group_advantages(&totals).unwrap_or_default();
                    group.into_iter().zip(found).map(|((id, _), a)| (id, number(a))).collect()
                };
                single(self.groups(true).into_iter().flat_map(advantages).collect())
            }
            Data::AnnotatedPairs | Data::AnnotatedLabels | Data::Prompts | Data::Guided(_) => {
                Vec::new()
            }
        })
    }
}

/// Best and worst of a group; ties go to the smaller id.
fn ends(group: &[Chosen]) -> Option<(&Chosen, &Chosen)> {
    let best = group.iter().rev().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let worst = group.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some((best, worst))
}

/// `G · softmax(total)` over a group: mean 1 over the group, and so over the pool.
fn softmax(group: &[Chosen]) -> Vec<Chosen> {
    let top = group.iter().map(|c| c.1).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = group.iter().map(|c| (c.1 - top).exp()).sum();
    let n = group.len() as f64;
    group.iter().map(|(id, t)| (id.clone(), n * (t - top).exp() / sum)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use craft_core::RewardName;

    const RECIPE: &str = r#"
seed = 1
[model]
path = "m"
[prompts]
source = "pocket"
[[rewards]]
name = "a"
[[rewards]]
name = "b"
weight = 2.0
[select]
max_samples = 3
"#;

    /// Four prompts with a plain picture and three wordings; reward b falls as a rises a little.
    fn pool() -> (Pool, Recipe) {
        let recipe = Recipe::parse::<String>(RECIPE, &[]).unwrap();
        let [a, b] = ["a", "b"].map(|n| RewardName::new(n).unwrap());
        let mut candidates = Vec::new();
        let mut rows = Vec::new();
        for p in 0..4u32 {
            for v in 0..4u32 {
                let id = CandidateId::new(PromptId::from_index(p as usize), v, 0);
                let score = f64::from((7 * p + 5 * v) % 11);
                rows.push(ScoreRow::new(id.clone()).with(&a, score).with(&b, 0.5 * score));
                candidates.push(Candidate::new(id, format!("{p} {v}")));
            }
        }
        let totals = totals(&rows, &recipe);
        (Pool { candidates, rows, totals }, recipe)
    }

    fn units(data: Data, loss: Loss) -> Vec<Vec<Chosen>> {
        let (pool, recipe) = pool();
        pool.units(&recipe, data, loss).unwrap()
    }

    #[test]
    fn totals_are_weighted_z_scores() {
        let (pool, _) = pool();
        let all: Vec<f64> = pool.totals.values().copied().collect();
        let (mean, std) = mean_std(&all);
        // Both rewards are one number at different scales: (1 + 2) times its z-score.
        assert!(mean.abs() < 1e-12 && (std - 3.0).abs() < 1e-12, "{mean}, {std}");
    }

    #[test]
    fn every_method_trains_on_what_it_says() {
        let w = Loss::Weighted;
        assert_eq!(units(Data::All, w).len(), 12);
        assert_eq!(units(Data::Selected, w).len(), 3);
        assert_eq!(units(Data::Random, w).len(), 3);
        // Scores are 0, 5, 10, 4 of prompt 0; 7, 1, 6, 0 of 1; 3, 8, 2, 7 of 2; 10, 4, 9, 3 of 3.
        let best: Vec<u32> = units(Data::Best, w).iter().map(|u| u[0].0.variant).collect();
        assert_eq!(best, [2, 2, 1, 2]);
        let weights: Vec<Chosen> = units(Data::Softmax, w).concat();
        let sum: f64 = weights.iter().map(|c| c.1).sum();
        assert!((sum - 12.0).abs() < 1e-9);
        let pairs = units(Data::RewardPairs, Loss::Dpo(1.0));
        let ends: Vec<[u32; 2]> = pairs.iter().map(|p| [p[0].0.variant, p[1].0.variant]).collect();
        assert_eq!(ends, [[2, 0], [0, 3], [1, 2], [0, 3]]);
        assert_eq!(units(Data::RewardLabels, Loss::Kto(1.0)).len(), 8);
        let liked = units(Data::SelectedLiked, Loss::Kto(1.0)).concat();
        let selected = units(Data::Selected, w).concat();
        assert!(liked.iter().zip(&selected).all(|(l, s)| l.0 == s.0 && l.1 == 1.0));
        let labels = units(Data::SelectedLabels, Loss::Kto(1.0)).concat();
        assert_eq!(labels[..3], liked);
        let worst = labels[3..].iter().map(|c| (c.0.to_string(), c.1));
        let ids = [(1, 3), (2, 2), (3, 3)]
            .map(|(p, v)| CandidateId::new(PromptId::from_index(p), v, 0).to_string());
        assert_eq!(worst.collect::<BTreeMap<_, _>>(), ids.map(|id| (id, 0.0)).into());
        let groups = units(Data::Groups, Loss::Lair(1.0));
        assert!(
            groups.iter().all(|g| g.len() == 4 && g.iter().map(|c| c.1).sum::<f64>().abs() < 1e-9)
        );
        let advantages = units(Data::Advantages, Loss::Awm);
        assert_eq!(advantages.len(), 16);
        assert!(advantages.concat().iter().map(|c| c.1).sum::<f64>().abs() < 1e-6);
        let good = units(Data::Advantages, Loss::Nft(1.0));
        assert!(good.concat().iter().all(|c| (0.0..=1.0).contains(&c.1)));
    }
}
