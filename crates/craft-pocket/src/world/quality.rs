//! How well a picture is drawn: four axes, each from 0 (poor) to 1 (good).

use serde::{Deserialize, Serialize};

use super::rng::WorldRng;

/// Names of the four axes in the order of [`Quality::to_array`].
pub const AXES: [&str; 4] = ["sharpness", "contrast", "cleanliness", "composition"];

/// The four quality axes, each in 0..=1, 1 being good.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// 0: Gaussian blur of 1.8 pixels; 1: none.
    pub sharpness: f32,
    /// 0: a quarter of the saturation, blended towards mid grey; 1: full colours.
    pub contrast: f32,
    /// 0: many neutral marks and strokes on the background; 1: none.
    pub cleanliness: f32,
    /// 0: far off-centre, partly over the border, a little small; 1: centred.
    pub composition: f32,
}

impl Quality {
    /// All four axes at 1.
    pub const BEST: Self = Self::even(1.0);
    /// All four axes at 0.
    pub const WORST: Self = Self::even(0.0);

    /// All four axes at one value.
    pub const fn even(value: f32) -> Self {
        Self { sharpness: value, contrast: value, cleanliness: value, composition: value }
    }

    /// Axes in the order of [`AXES`], clamped to 0..=1.
    pub fn from_array(axes: [f32; 4]) -> Self {
        let [sharpness, contrast, cleanliness, composition] = axes.map(|v| v.clamp(0.0, 1.0));
        Self { sharpness, contrast, cleanliness, composition }
    }

    /// Axes in the order of [`AXES`].
    pub fn to_array(self) -> [f32; 4] {
        [self.sharpness, self.contrast, self.cleanliness, self.composition]
    }

    /// Mean of the four axes.
    pub fn mean(self) -> f32 {
        self.to_array().iter().sum::<f32>() / 4.0
    }

    /// What a picture with a plain caption has: every axis broad (mean about .45, all of 0..1 reached),
    /// the four a little correlated (about .2).
    pub fn sample_broad(rng: &mut WorldRng) -> Self {
        let shared = 0.6 * rng.normal();
        let mut axes = [0.0; 4];
        for axis in &mut axes {
            let logit = -0.28 + shared + 1.3 * rng.normal();
            *axis = 1.0 / (1.0 + (-logit).exp());
        }
        Self::from_array(axes)
    }

    /// A value near the good end (mean about .9) or, for `good == false`, near the poor end (about .1).
    pub fn sample_near_end(good: bool, rng: &mut WorldRng) -> f32 {
        let away = (0.10 * rng.exponential()).min(0.6);
        if good { 1.0 - away } else { away }
    }
}
