//! What a comparison will cost, from one measured pass of each kind of work.

use burn::tensor::{Tensor, TensorData};
use craft_nn::weights;
use craft_rewards::RgbImageRef;

use super::methods::{Data, Loss};
use super::plan::Plan;
use super::step_aware;
use crate::cost::{Spent, duration, prediction_seconds};
use crate::error::Result;
use crate::rewards::{RewardSource, load_all};
use crate::stages::{generate, trainer};
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Job, StepNoise, draw};

/// How much of each kind of work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    /// Pictures drawn and scored.
    pictures: usize,
    /// Samples forwards and backwards.
    passes: usize,
    /// Samples through the frozen reference.
    references: usize,
    /// Annotated pictures encoded.
    encoded: usize,
}

/// Measured work for one of each.
struct Rates {
    picture: Spent,
    pass: Spent,
    reference: Spent,
    encoded: Spent,
}

impl Rates {
    fn of(&self, counts: Counts) -> Spent {
        [
            self.picture.times(counts.pictures as f64),
            self.pass.times(counts.passes as f64),
            self.reference.times(counts.references as f64),
            self.encoded.times(counts.encoded as f64),
        ]
        .into_iter()
        .sum()
    }
}

/// The parts of a plan, each with its work. Lengths are the longest that a search may choose.
fn parts(plan: &Plan) -> Vec<(&'static str, Counts)> {
    let recipe = &plan.recipe;
    let (seeds, batch) = (plan.seeds.len(), recipe.train.batch);
    let annotated = plan.entries.iter().any(|e| e.method.data.annotated());
    let candidates = Counts {
        pictures: seeds * recipe.candidate_count(plan.train_prompts),
        ..Counts::default()
    };
    let pairs =
        Counts { encoded: if annotated { 2 * seeds * plan.pairs } else { 0 }, ..Counts::default() };
    let (mut search, mut training) = (Counts::default(), Counts::default());
    let full = plan.eval_prompts * recipe.evaluate.samples_per_prompt;
    let mut looks = Counts { pictures: seeds * full, ..Counts::default() };
    let searched = plan.search_seeds;
    search.pictures += searched * plan.search_prompts;
    for entry in &plan.entries {
        let points = plan.points(entry);
        let steps = points.last().copied().unwrap_or(0);
        let online = entry.method.data == Data::Prompts;
        let guided = online && recipe.generate.guidance_scale > 1.0;
        let spo = entry.method.loss == Loss::Spo;
        let rows = if spo { step_aware::pairs_a_step(batch) } else { batch };
        let passes = steps * rows * if guided { 2 } else { 1 };
        // Those that draw as they go do so once an iteration of the sampler's length. What SPO draws is
        // counted as whole pictures, though each continuation costs one prediction.
        let length = recipe.generate.steps.max(1);
        let iteration = if spo { step_aware::images(batch, length) } else { batch };
        let drawn = if online { steps.div_ceil(length) * iteration } else { 0 };
        let references = if entry.method.loss.has_reference() { passes } else { 0 };
        if entry.takes_from_craft() {
            // No search, and candidates of its own, as many as one round has.
            training.pictures += seeds * recipe.candidate_count(plan.train_prompts);
        } else {
            let trials = searched * plan.learning_rates.len();
            search.passes += trials * passes;
            search.pictures += trials * (drawn + points.len() * plan.search_prompts);
            // Shared by the learning rates.
            search.references += searched * references;
        }
        training.passes += seeds * passes;
        training.references += seeds * references;
        training.pictures += seeds * drawn;
        looks.pictures += seeds * (points.len().saturating_sub(1) * plan.curve_prompts + full);
    }
    vec![
        ("candidates", candidates),
        ("annotated pairs", pairs),
        ("search", search),
        ("training", training),
        ("looks and evaluation", looks),
    ]
}

/// Measures one pass of each kind.
fn measure(plan: &Plan) -> Result<Rates> {
    let recipe = &plan.recipe;
    let device = burn::tensor::Device::flex();
    let model = Model::load(&plan.model_dir, &device)?;
    let options = generate::options(&recipe.generate, &model)?;
    let options = DrawOptions {
        steps: recipe.evaluate_steps(),
        guidance_scale: recipe.evaluate_guidance_scale(),
        ..options
    };
    let [c, h, w] = model.latent_shape(options.height, options.width);
    let n = options.batch.min((4096 / (h * w).max(1)).max(1));
    // Programs and servers are not started for a plan.
    let own: Vec<_> = plan
        .rewards
        .iter()
        .filter(|r| matches!(r.source, RewardSource::Weights(_)))
        .map(|r| (r.name.as_str(), &r.source))
        .collect();
    let rewards = load_all(&own, &device)?;
    let key = craft_core::Key::new(recipe.seed).stage("measure");
    let picture = Spent::on(|| {
        let job = |i: usize| {
            let key = key.clone().sample(i as u64);
            let noise = key.standard_normals(c * h * w);
            Job { prompt: "", negative: None, noise, step_noise: StepNoise::Key(key) }
        };
        let drawn = draw(&model, &(0..n).map(job).collect::<Vec<_>>(), &options, &mut |_| ())?;
        let view = |d: &craft_model::sample::Drawn| (d.image.width, d.image.height);
        let views: Vec<RgbImageRef<'_>> = drawn
            .iter()
            .map(|d| {
                let (width, height) = view(d);
                RgbImageRef { pixels: &d.image.data, width, height }
            })
            .collect();
        for reward in &rewards {
            let _ = reward.score(&views, &vec![""; n]);
        }
        Ok(())
    })?;
    let (height, width) = (options.height, options.width);
    let planes = TensorData::new(vec![0f32; n * 3 * height * width], [n, 3, height, width]);
    let planes = Tensor::<4>::from_data(planes, &device);
    let encoded = Spent::on(|| {
        weights::to_vec(model.vae.encode(planes.clone()).0);
        Ok(())
    })?;
    let reference = prediction_seconds(recipe, &model)?;
    let pass = trainer::measure(recipe, model)?;
    Ok(Rates { picture: picture.each(n), pass, reference, encoded: encoded.each(n) })
}

/// What a plan does and costs, in lines.
///
/// # Errors
/// When the model or a reward cannot be loaded.
pub(super) fn lines(plan: &Plan) -> Result<Vec<String>> {
    let parts = parts(plan);
    let rates = measure(plan)?;
    let names: Vec<&str> = plan.entries.iter().map(|e| e.name.as_str()).collect();
    let seeds: Vec<String> = plan.seeds.iter().map(u64::to_string).collect();
    let search = if plan.search_seeds > 0 {
        let all: Vec<String> = plan.learning_rates.iter().map(|r| format!("{r:.1e}")).collect();
        format!(
            "every method tries learning rates {} and its lengths on {} prompts of their own, with the candidates of {}",
            all.join(", "),
            plan.search_prompts,
            match plan.search_seeds {
                1 => format!("seed {}", seeds[0]),
                n => format!("seeds {}", seeds[..n].join(", ")),
            }
        )
    } else {
        "none: every method takes the recipe's learning rate and its full length".to_owned()
    };
    let total: Counts = parts.iter().fold(Counts::default(), |a, (_, b)| Counts {
        pictures: a.pictures + b.pictures,
        passes: a.passes + b.passes,
        references: a.references + b.references,
        encoded: a.encoded + b.encoded,
    });
    let spent: Vec<(&str, Spent)> = parts.iter().map(|(name, c)| (*name, rates.of(*c))).collect();
    let all: Spent = spent.iter().map(|(_, s)| *s).sum();
    let threads = rayon::current_num_threads();
    let each: Vec<String> =
        spent.iter().map(|(name, s)| format!("{name} {}", duration(s.clock))).collect();
    Ok(vec![
        format!("methods: {}; seeds: {}", names.join(", "), seeds.join(", ")),
        format!("search: {search}"),
        format!(
            "work at most: {} pictures drawn and scored, {} training passes, {} passes of the reference, {} annotated pictures encoded",
            total.pictures, total.passes, total.references, total.encoded
        ),
        format!(
            "time at most, with the machine as busy as now: {} = {}",
            duration(all.clock),
            each.join(", ")
        ),
        format!(
            "time of processors: {}, which is {} of {threads} that do nothing else; measured: {:.4} s a picture, {:.4} s a training pass, {:.4} s a reference pass, {:.4} s an annotated picture",
            duration(all.processors),
            duration(all.processors / threads as f64),
            rates.picture.processors,
            rates.pass.processors,
            rates.reference.processors,
            rates.encoded.processors
        ),
    ])
}
