//! What a comparison will cost, from one measured pass of each kind of work.

use burn::tensor::{Device, Tensor, TensorData};
use craft_model::model::Model;
use craft_model::sample::{DrawOptions, Drawn, Job, StepNoise, draw};
use craft_nn::weights;
use craft_rewards::RgbImageRef;
use craft_train::methods::Drawing;
use craft_train::online::continuations_scored;

use super::entry::{Entry, SettingsFrom};
use super::pipeline::{
    Result, Spent, candidate_options, duration, load_rewards, prediction_cost, training_cost,
};
use super::plan::Plan;
use super::tune::has_reference;

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
    let seeds = plan.seeds.len();
    let annotated = plan.entries.iter().any(|e| e.method.data.annotated());
    let candidates = Counts {
        pictures: seeds * recipe.candidate_count(plan.train_prompts),
        ..Counts::default()
    };
    let pairs =
        Counts { encoded: if annotated { 2 * seeds * plan.pairs } else { 0 }, ..Counts::default() };
    let full = plan.eval_prompts * recipe.evaluate.samples_per_prompt;
    let (mut search, mut training) = (Counts::default(), Counts::default());
    search.pictures += plan.search_seeds * plan.search_prompts;
    // The base model's pictures are the first.
    let mut evaluation = Counts { pictures: seeds * full, ..Counts::default() };
    for entry in &plan.entries {
        let points = plan.points(entry).len();
        let one = longest(plan, entry);
        if entry.settings == SettingsFrom::Craft {
            // No search, and candidates of its own, as many as one round has.
            training.pictures += seeds * recipe.candidate_count(plan.train_prompts);
        } else {
            let trials = plan.search_seeds * plan.learning_rates.len();
            search.passes += trials * one.passes;
            search.pictures += trials * (one.pictures + points * plan.search_prompts);
            // Shared by the learning rates.
            search.references += plan.search_seeds * one.references;
        }
        training.passes += seeds * one.passes;
        training.references += seeds * one.references;
        training.pictures += seeds * one.pictures;
        evaluation.pictures += seeds * (points.saturating_sub(1) * plan.curve_prompts + full);
    }
    vec![
        ("candidates", candidates),
        ("annotated pairs", pairs),
        ("search", search),
        ("training", training),
        ("evaluation", evaluation),
    ]
}

/// One training of a method at its full length.
fn longest(plan: &Plan, entry: &Entry) -> Counts {
    let (recipe, batch) = (&plan.recipe, plan.recipe.train.batch);
    let steps = plan.points(entry).last().copied().unwrap_or(0);
    let drawing = entry.method.data.drawing();
    let online = drawing.is_some();
    let guided = online && recipe.generate.guidance_scale > 1.0;
    let spo = drawing == Some(Drawing::Continuations);
    let rows = if spo { (batch / 2).max(1) } else { batch };
    let passes = steps * rows * if guided { 2 } else { 1 };
    // Those that draw as they train do so once an iteration of the sampler's length. What SPO draws is
    // counted as whole pictures, though each continuation costs one prediction.
    let length = recipe.generate.steps.max(1);
    let iteration = if spo { continuations_scored(batch, length) } else { batch };
    let pictures = if online { steps.div_ceil(length) * iteration } else { 0 };
    let references = if has_reference(entry.method, recipe) { passes } else { 0 };
    Counts { pictures, passes, references, encoded: 0 }
}

/// Measures one pass of each kind.
fn measure(plan: &Plan, device: &Device) -> Result<Rates> {
    let recipe = &plan.recipe;
    let model = Model::load(&plan.model_dir, device)?;
    let options = DrawOptions {
        steps: recipe.evaluate_steps(),
        guidance_scale: recipe.evaluate_guidance_scale(),
        ..candidate_options(recipe, &model)?
    };
    let [_, h, w] = model.latent_shape(options.height, options.width);
    let n = options.batch.min((4096 / (h * w).max(1)).max(1));
    let picture = measure_pictures(plan, &model, &options, n)?;
    let (height, width) = (options.height, options.width);
    let planes = TensorData::new(vec![0f32; n * 3 * height * width], [n, 3, height, width]);
    let planes = Tensor::<4>::from_data(planes, device);
    let encoded = Spent::on(|| {
        weights::to_vec(model.vae.encode(planes.clone()).0);
        Ok(())
    })?;
    let reference = prediction_cost(recipe, &model)?;
    let pass = training_cost(recipe, model)?;
    Ok(Rates { picture: picture.each(n), pass, reference, encoded: encoded.each(n) })
}

fn view(drawn: &Drawn) -> RgbImageRef<'_> {
    let (width, height) = (drawn.image.width, drawn.image.height);
    RgbImageRef { pixels: &drawn.image.data, width, height }
}

/// Measures `n` pictures, drawn and scored together.
fn measure_pictures(plan: &Plan, model: &Model, options: &DrawOptions, n: usize) -> Result<Spent> {
    let latents: usize = model.latent_shape(options.height, options.width).iter().product();
    let rewards = load_rewards(&plan.rewards, &model.device)?;
    let key = craft_core::Key::new(plan.recipe.seed).stage("measure");
    Spent::on(|| {
        let job = |i: usize| {
            let key = key.clone().sample(i as u64);
            let noise = key.standard_normals(latents);
            Job { prompt: "", negative: None, noise, step_noise: StepNoise::Key(key) }
        };
        let drawn = draw(model, &(0..n).map(job).collect::<Vec<_>>(), options, &mut |_| ())?;
        let views: Vec<RgbImageRef<'_>> = drawn.iter().map(view).collect();
        for reward in &rewards {
            let _ = reward.score(&views, &vec![""; n]);
        }
        Ok(())
    })
}

/// What a plan does and costs, in lines.
///
/// # Errors
/// When the model or a reward cannot be loaded.
pub(super) fn lines(plan: &Plan, device: &Device) -> Result<Vec<String>> {
    let parts = parts(plan);
    let rates = measure(plan, device)?;
    let names: Vec<&str> = plan.entries.iter().map(|e| e.name.as_str()).collect();
    let seeds: Vec<String> = plan.seeds.iter().map(u64::to_string).collect();
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
        format!("search: {}", search_line(plan, &seeds)),
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

/// What is searched, with the candidates of which seeds.
fn search_line(plan: &Plan, seeds: &[String]) -> String {
    if plan.search_seeds == 0 {
        return "none: every method takes the recipe's learning rate and its full length"
            .to_owned();
    }
    let rates: Vec<String> = plan.learning_rates.iter().map(|r| format!("{r:.1e}")).collect();
    let own = match plan.search_seeds {
        1 => format!("seed {}", seeds[0]),
        n => format!("seeds {}", seeds[..n].join(", ")),
    };
    format!(
        "every method tries learning rates {} and its lengths on {} prompts of their own, with the candidates of {own}",
        rates.join(", "),
        plan.search_prompts,
    )
}
