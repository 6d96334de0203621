//! The search of a method's learning rate and length: the same grid for every method, on prompts that
//! nothing is reported on, with the candidates of the first seeds; the mean over them chooses.

use std::path::Path;

use craft_store::{Stage, jsonl};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::Shared;
use super::fit::{Fit, References};
use super::judge::{Judge, PictureRow, gains};
use super::plan::{Entry, Plan};
use super::tune::{SCORES, online, training_identity, training_set};
use crate::error::Result;
use crate::stages::evaluate::CHECKER;
use crate::stages::{Outcome, inputs};

const BASE: Stage = Stage::new("search base", "search/base");
/// Pictures of looks, in the folder of a search until they are measured.
const LOOKS: &str = ".looks";
/// What was tried and chosen, in the folder of a search.
const FILE: &str = "search.json";

/// The settings that a method trains with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) learning_rate: f64,
    pub(super) steps: usize,
}

/// One learning rate that was tried.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Trial {
    pub(super) learning_rate: f64,
    /// (steps, mean change of the decisive reward against base).
    pub(super) gains: Vec<(usize, f64)>,
    /// (steps, change of the share of facts that the checker finds against base), where there is a checker.
    #[serde(default)]
    pub(super) facts: Vec<(usize, f64)>,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) stopped: Option<String>,
}

/// What was tried with the candidates of one seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct SeedSearch {
    seed: u64,
    trials: Vec<Trial>,
    seconds: f64,
}

/// A finished search, over all its seeds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Search {
    /// The reward that decided.
    pub(super) reward: String,
    /// The share of facts that the chosen settings may lose; `null` in JSON: any.
    pub(super) fact_loss: f64,
    /// Prompts, one picture each.
    pub(super) prompts: usize,
    pub(super) seeds: Vec<u64>,
    /// Means over the seeds.
    pub(super) trials: Vec<Trial>,
    pub(super) chosen: Settings,
    /// The best change; `None` where training diverged at every rate before its first look.
    pub(super) gain: Option<f64>,
    pub(super) seconds: f64,
}

/// Tries all learning rates and lengths of a method with the candidates of one seed.
pub(super) fn run(
    shared: &Shared<'_>,
    plan: &Plan,
    judge: &Judge<'_>,
    entry: &Entry,
) -> Result<()> {
    let run = &shared.run;
    let base = base(shared, plan, judge)?;
    let recipe = entry.recipe(run.recipe)?;
    let points = plan.points(entry);
    let config = json!([
        training_identity(entry, &recipe),
        plan.learning_rates,
        points,
        plan.search_prompts,
        plan.decisive,
        run.recipe.seed,
        // Looks count the facts too, which those of earlier versions did not.
        CHECKER,
    ]);
    let mut inputs = inputs(&[&shared.generated, &shared.scored]);
    inputs.insert("model".to_owned(), shared.model_hash.clone());
    inputs.insert(plan.decisive.clone(), judge.hashes[&plan.decisive].clone());
    if let Some(pairs) = shared.pairs.as_ref().filter(|_| entry.method.data.annotated()) {
        inputs.insert(pairs.stage.clone(), pairs.digest());
    }
    run.stage(entry.search.clone(), &config, inputs, |writer| {
        let start = std::time::Instant::now();
        let set = training_set(shared, entry, &recipe, judge)?;
        let steps = points.last().copied().unwrap_or(1);
        let (mut trials, known) = (Vec::new(), References::default());
        for (i, &learning_rate) in plan.learning_rates.iter().enumerate() {
            let done = writer.join(format!(".trial-{i}.json"));
            if done.exists() {
                trials.push(craft_store::manifest::read_json::<Trial>(&done)?);
                continue;
            }
            let looks_path = writer.join(format!(".looks-{i}.jsonl"));
            let mut looks: Vec<(usize, Option<f64>, Option<f64>)> =
                jsonl::read_resumable(&looks_path)?.rows;
            let name = format!("{}, learning rate {learning_rate:.1e}", entry.name);
            let fit = Fit {
                run,
                name: &name,
                recipe: &recipe,
                model: &judge.model,
                start: &judge.model,
                set: &set,
                loss: entry.method.loss,
                learning_rate,
                steps,
                online: online(shared, entry, &recipe, judge)?,
                state: &writer.join(format!(".state-{i}")),
                reference: Some(&known),
            };
            let cost = fit.fit(&points, &mut |step, unet, _| {
                if looks.iter().any(|(known, ..)| *known == step) {
                    return Ok(());
                }
                let images = writer.join(format!("{LOOKS}-{i}/step-{step}"));
                let measured = judge.measure(Some(unet), &judge.search, &images)?;
                let all = gains(&base, &measured.rows);
                looks.retain(|(before, ..)| *before < step);
                looks.push((step, all.get(&plan.decisive).copied(), all.get(CHECKER).copied()));
                Ok(jsonl::write(&looks_path, &looks)?)
            })?;
            let trial = Trial {
                learning_rate,
                gains: looks.iter().filter_map(|(step, gain, _)| Some((*step, (*gain)?))).collect(),
                facts: looks
                    .iter()
                    .filter_map(|(step, _, facts)| Some((*step, (*facts)?)))
                    .collect(),
                stopped: cost.diverged,
            };
            craft_store::manifest::write_json(&done, &trial)?;
            let _ = std::fs::remove_dir_all(writer.join(format!("{LOOKS}-{i}")));
            trials.push(trial);
        }
        let best = best(&trials, plan.fact_loss);
        let search =
            SeedSearch { seed: run.recipe.seed, trials, seconds: start.elapsed().as_secs_f64() };
        craft_store::manifest::write_json(&writer.join(FILE), &search)?;
        let found = best.map_or("diverged at every rate".to_owned(), |(rate, steps, gain)| {
            format!("learning rate {rate:.1e}, {steps} steps ({} {gain:+.3})", plan.decisive)
        });
        Ok(Outcome::default().say(format!("best of this seed: {found}")))
    })?;
    Ok(())
}

/// Change of look `i` with half of those before and after it: a setting that is good at one length only is not to be trusted on
/// another seed.
fn steady(looks: &[(usize, f64)], i: usize) -> f64 {
    let beside = [i.checked_sub(1).and_then(|i| looks.get(i)), looks.get(i + 1)];
    let (mut sum, mut weight) = (2.0 * looks[i].1, 2.0);
    for (_, gain) in beside.into_iter().flatten() {
        sum += gain;
        weight += 1.0;
    }
    sum / weight
}

/// Learning rate, steps and change of the best look, by its [`steady`] change, that loses at most `fact_loss` of the facts; where
/// all lose more, of the one that loses least. A rate that diverged is taken only where all did, and then as far as it went; of equals
/// the first, which is less training.
fn best(trials: &[Trial], fact_loss: f64) -> Option<(f64, usize, f64)> {
    let looks = |diverged: bool| {
        let of = trials.iter().filter(move |t| t.stopped.is_some() == diverged);
        let looks = of.flat_map(|t| {
            t.gains.iter().enumerate().map(move |(i, &(steps, gain))| {
                let facts = t.facts.iter().find(|(at, _)| *at == steps).map_or(0.0, |f| f.1);
                // Whether the loss is allowed, then the smaller loss, then the larger gain.
                let allowed = facts >= -fact_loss;
                let rank = (allowed, if allowed { 0.0 } else { facts }, steady(&t.gains, i));
                (rank, (t.learning_rate, steps, gain))
            })
        });
        let best = looks.fold(None, |best: Option<(_, _)>, new| match best {
            Some(old) if old.0 >= new.0 => Some(old),
            _ => Some(new),
        });
        best.map(|(_, look)| look)
    };
    looks(false).or_else(|| looks(true))
}

/// The mean of each look over the seeds that all came as far; stopped where one of them stopped.
fn mean_of(seeds: &[SeedSearch]) -> Vec<Trial> {
    let Some(first) = seeds.first() else { return Vec::new() };
    let trial = |i: usize, trial: &Trial| {
        let same: Vec<&Trial> = seeds.iter().filter_map(|s| s.trials.get(i)).collect();
        let mean = |looks: &dyn Fn(&Trial) -> &[(usize, f64)]| {
            let of = |steps: usize| {
                let all: Option<Vec<f64>> = same
                    .iter()
                    .map(|t| {
                        looks(t).iter().find(|(at, _)| *at == steps).map(|(_, change)| *change)
                    })
                    .collect();
                all.map(|all| (steps, all.iter().sum::<f64>() / all.len() as f64))
            };
            looks(trial).iter().filter_map(|(steps, _)| of(*steps)).collect()
        };
        Trial {
            learning_rate: trial.learning_rate,
            gains: mean(&|t| &t.gains),
            facts: mean(&|t| &t.facts),
            stopped: same.iter().find_map(|t| t.stopped.clone()),
        }
    };
    first.trials.iter().enumerate().map(|(i, t)| trial(i, t)).collect()
}

/// The base model on the search's prompts.
fn base(shared: &Shared<'_>, plan: &Plan, judge: &Judge<'_>) -> Result<Vec<PictureRow>> {
    let recipe = shared.run.recipe;
    let config = json!([recipe.evaluate, recipe.generate, recipe.seed, plan.search_prompts]);
    let mut inputs = judge.hashes.clone();
    inputs.insert("model".to_owned(), shared.model_hash.clone());
    shared.run.stage(BASE, &config, inputs, |writer| {
        let measured = judge.measure(None, &judge.search, &writer.join(LOOKS))?;
        jsonl::write(&writer.join(SCORES), &measured.rows)?;
        let _ = std::fs::remove_dir_all(writer.join(LOOKS));
        Ok(Outcome::default().say("base model on the prompts for choosing settings"))
    })?;
    Ok(jsonl::read(&shared.run.path(&format!("{}/{SCORES}", BASE.folder())))?)
}

/// The search of a method, if there was one and all its seeds are done.
pub(super) fn read(plan: &Plan, folder: &Path, entry: &Entry) -> Result<Option<Search>> {
    if !entry.searches() {
        return Ok(None);
    }
    let mut seeds = Vec::new();
    for seed in plan.searched() {
        let path = folder.join(format!("seed-{seed}")).join(entry.search.folder()).join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        seeds.push(craft_store::manifest::read_json::<SeedSearch>(&path)?);
    }
    if seeds.is_empty() {
        return Ok(None);
    }
    let trials = mean_of(&seeds);
    // Where none came as far as a look, the most cautious settings are tried once more.
    let smallest = plan.learning_rates.iter().copied().fold(f64::INFINITY, f64::min);
    let shortest = plan.points(entry).first().copied().unwrap_or(1);
    let (learning_rate, steps, gain) = best(&trials, plan.fact_loss)
        .map_or((smallest, shortest, None), |(rate, steps, gain)| (rate, steps, Some(gain)));
    Ok(Some(Search {
        reward: plan.decisive.clone(),
        fact_loss: plan.fact_loss,
        prompts: plan.search_prompts,
        seeds: seeds.iter().map(|s| s.seed).collect(),
        trials,
        chosen: Settings { learning_rate, steps },
        gain,
        seconds: seeds.iter().map(|s| s.seconds).sum(),
    }))
}

/// What was chosen; without a search the recipe's learning rate and the method's full length.
pub(super) fn settings(plan: &Plan, folder: &Path, entry: &Entry) -> Result<Settings> {
    if let Some(search) = read(plan, folder, entry)? {
        return Ok(search.chosen);
    }
    Ok(Settings {
        learning_rate: entry.recipe(&plan.recipe)?.train.learning_rate,
        steps: plan.points(entry).last().copied().unwrap_or(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(learning_rate: f64, gains: &[(usize, f64)], stopped: Option<&str>) -> Trial {
        let stopped = stopped.map(str::to_owned);
        Trial { learning_rate, gains: gains.to_vec(), facts: Vec::new(), stopped }
    }

    fn best_rate(trials: &[Trial]) -> Option<f64> {
        best(trials, 0.01).map(|(rate, ..)| rate)
    }

    fn seed(seed: u64, trials: Vec<Trial>) -> SeedSearch {
        SeedSearch { seed, trials, seconds: 1.0 }
    }

    #[test]
    fn the_mean_over_seeds_chooses_and_not_the_best_single_look() {
        let seeds = [
            seed(
                1,
                vec![trial(1e-5, &[(5, 0.2), (10, 0.3)], None), trial(1e-4, &[(5, 0.9)], None)],
            ),
            seed(
                2,
                vec![trial(1e-5, &[(5, 0.3), (10, 0.4)], None), trial(1e-4, &[(5, -0.8)], None)],
            ),
        ];
        let (rate, steps, gain) = best(&mean_of(&seeds), 0.01).expect("looks");
        assert_eq!((rate, steps), (1e-5, 10));
        assert!((gain - 0.35).abs() < 1e-12, "{gain}");
        assert_eq!(best_rate(&seeds[0].trials), Some(1e-4));
    }

    #[test]
    fn a_look_that_stands_alone_is_not_trusted() {
        let trials = [
            trial(1e-4, &[(5, 0.028), (10, 0.027), (20, 0.041), (30, 0.032)], None),
            trial(4e-4, &[(5, 0.044), (10, -0.002), (20, 0.012), (30, -0.016)], None),
        ];
        assert_eq!(best(&trials, 0.01), Some((1e-4, 20, 0.041)));
        // Beside nothing it stands for itself, and the end of a curve that rises is its best.
        assert_eq!(steady(&[(5, 0.3)], 0), 0.3);
        let rising = trial(1e-4, &[(5, 0.1), (10, 0.2)], None);
        assert_eq!(best(&[rising], 0.01), Some((1e-4, 10, 0.2)));
    }

    #[test]
    fn a_rate_that_diverged_on_one_seed_is_taken_last_and_no_further_than_it_went() {
        let seeds = [
            seed(
                1,
                vec![trial(1e-5, &[(5, 0.1)], None), trial(1e-3, &[(5, 0.9), (10, 1.0)], None)],
            ),
            seed(2, vec![trial(1e-5, &[(5, 0.1)], None), trial(1e-3, &[(5, 0.9)], Some("at 7"))]),
        ];
        let trials = mean_of(&seeds);
        assert_eq!(trials[1].gains, [(5, 0.9)]);
        assert_eq!(best_rate(&trials), Some(1e-5));
        assert_eq!(best_rate(&trials[1..]), Some(1e-3));
        assert_eq!(best_rate(&[trial(1e-3, &[], Some("at 1"))]), None);
    }

    #[test]
    fn the_largest_gain_is_taken_among_looks_that_keep_the_facts() {
        let with = |rate, gains: &[(usize, f64)], facts: &[(usize, f64)]| Trial {
            facts: facts.to_vec(),
            ..trial(rate, gains, None)
        };
        let trials = [
            with(1e-5, &[(5, 0.1), (10, 0.2)], &[(5, 0.0), (10, -0.01)]),
            with(1e-4, &[(5, 0.5), (10, 0.9)], &[(5, -0.02), (10, -0.05)]),
        ];
        assert_eq!(best(&trials, 0.01), Some((1e-5, 10, 0.2)));
        assert_eq!(best(&trials, 0.03), Some((1e-4, 5, 0.5)));
        assert_eq!(best(&trials, f64::INFINITY), Some((1e-4, 10, 0.9)));
        // All of them lose more: the one that loses least.
        assert_eq!(best(&trials[1..], 0.01), Some((1e-4, 5, 0.5)));
        let seeds = [seed(1, trials.to_vec()), seed(2, trials.to_vec())];
        assert_eq!(mean_of(&seeds), trials);
    }
}
