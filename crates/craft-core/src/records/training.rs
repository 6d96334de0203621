//! Training: `metrics.jsonl` and `aligned/looks.jsonl`.

use serde::{Deserialize, Serialize};

/// One line of `metrics.jsonl`: a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// `craft` or `control`.
    pub run: String,
    /// Steps done before it.
    pub step: u64,
    /// The loss; null where it was not finite.
    #[serde(deserialize_with = "present")]
    pub loss: Option<f64>,
    /// Norm of the gradient before clipping; null where it was not finite.
    #[serde(deserialize_with = "present")]
    pub grad_norm: Option<f64>,
    /// Learning rate.
    pub lr: f64,
    /// Samples seen.
    pub nimg: u64,
    /// Steps skipped so far for a loss or gradient that was not finite.
    pub skipped: u64,
    /// Seconds since training began, earlier attempts included.
    pub seconds: f64,
}

/// A key that must be there and may be null.
fn present<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    Option::deserialize(from)
}

/// Means over pictures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PictureStatistics {
    /// Mean of (max − min)/max over the channels of a pixel.
    pub saturation: f64,
    /// Mean luma (Rec. 601).
    pub brightness: f64,
    /// Standard deviation of luma.
    pub contrast: f64,
    /// Mean absolute luma difference of neighbours.
    pub sharpness: f64,
    /// Mean absolute Laplacian of luma, the energy of the finest detail.
    pub high_frequency: f64,
}

impl PictureStatistics {
    /// The fields with their names.
    pub fn named(&self) -> [(&'static str, f64); 5] {
        [
            ("saturation", self.saturation),
            ("brightness", self.brightness),
            ("contrast", self.contrast),
            ("sharpness", self.sharpness),
            ("high_frequency", self.high_frequency),
        ]
    }
}

/// One line of `aligned/looks.jsonl`: an evaluation during training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Look {
    /// Steps done; 0 is the base model.
    pub step: u64,
    /// Mean of the first held-out reward, if there is one.
    pub held_out: Option<f64>,
    /// Of its pictures.
    pub statistics: PictureStatistics,
}
