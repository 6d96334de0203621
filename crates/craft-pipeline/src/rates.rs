//! Times of one pass of each kind of work, measured, and what they come to for a run.

use craft_core::Recipe;
use craft_model::model::Model;
use craft_model::sample::decode;
use craft_rewards::{Reward, RgbImageRef};

use crate::cost::{Spent, Work, prediction_seconds, training_pass};
use crate::error::Result;
use crate::stages::generate;
use crate::stages::table::StageId;

/// Seconds for one picture.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    /// One prediction of the denoiser.
    pub(crate) prediction: f64,
    /// From latents to pixels.
    decoding: f64,
    /// By all rewards that are trained on, and by all.
    scoring: [f64; 2],
    /// A forward and backward pass.
    pub(crate) pass: f64,
}

/// Seconds of a machine that does nothing else: work of the processors, shared by the threads that did it. Where
/// the clock ran faster than that, the clock.
fn alone(spent: Spent) -> f64 {
    let threads = rayon::current_num_threads().max(1) as f64;
    let shared = spent.processors / threads;
    // The system counts processors' time in hundredths of a second.
    if shared > 0.0 { spent.clock.min(shared.max(spent.clock / threads)) } else { spent.clock }
}

impl Rates {
    /// Measures one reward.
    ///
    /// # Errors
    /// None of its own.
    pub(crate) fn add_reward(
        &mut self,
        model: &dyn Reward,
        trained_on: bool,
        [height, width]: [usize; 2],
    ) -> Result<()> {
        let pixels = vec![127u8; height * width * 3];
        let picture = RgbImageRef { pixels: &pixels, width, height };
        let n = model.batch().clamp(1, 4);
        let spent = Spent::on(|| {
            let _ = model.score(&vec![picture; n], &vec!["a picture"; n]);
            Ok(())
        })?;
        let seconds = alone(spent.each(n));
        self.scoring[0] += if trained_on { seconds } else { 0.0 };
        self.scoring[1] += seconds;
        Ok(())
    }

    /// Measures a prediction, decoding and a training pass.
    ///
    /// # Errors
    /// Those of a training pass.
    pub(crate) fn add_model(&mut self, recipe: &Recipe, model: Model) -> Result<()> {
        let options = generate::options(&recipe.generate, &model)?;
        let [c, h, w] = model.latent_shape(options.height, options.width);
        self.prediction = alone(prediction_seconds(recipe, &model)?);
        self.decoding = alone(Spent::on(|| {
            decode(&model, vec![vec![0.0; c * h * w]], &options);
            Ok(())
        })?);
        self.pass = alone(training_pass(recipe, model)?);
        Ok(())
    }

    /// What a stage takes; none for one that was not measured.
    pub(crate) fn seconds(&self, id: StageId, recipe: &Recipe, work: &Work) -> Option<f64> {
        let drawing = |steps: usize, scale: f64| {
            let rows = if scale > 1.0 { 2.0 } else { 1.0 };
            steps as f64 * rows * self.prediction + self.decoding
        };
        let drawn = drawing(recipe.generate.steps, recipe.generate.guidance_scale);
        let looked = drawing(recipe.evaluate_steps(), recipe.evaluate_guidance_scale());
        let trained = (recipe.train.steps * recipe.train.batch) as f64 * self.pass;
        let rounds = work.rounds(recipe) as f64;
        Some(match id {
            StageId::Generate => work.candidates as f64 * drawn,
            StageId::Score => work.candidates as f64 * self.scoring[0],
            StageId::Train => rounds * trained,
            StageId::Control => trained,
            StageId::Evaluate => work.pictures_of(false) as f64 * (looked + self.scoring[1]),
            StageId::Sweep => work.pictures_of(true) as f64 * (looked + self.scoring[1]),
            _ => return None,
        })
    }
}
