//! What a method minimises: a loss of the denoiser's predictions.

mod common;

use crate::loss::{host_errors, squared_errors};
use burn::tensor::{Tensor, TensorData};

pub use common::{Anchor, Common, Target};

/// What an objective needs of the frozen reference: the model that drew the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reference {
    /// Nothing.
    None,
    /// Its squared error of each sample.
    Errors,
    /// Its predictions.
    Prediction,
}

/// A micro-batch after the forward pass, ready for a loss.
pub struct Predicted<'a> {
    /// Of the trained network, `[B, C, H, W]`.
    pub prediction: Tensor<4>,
    /// What it was to predict, of the same shape.
    pub target: Tensor<4>,
    /// The set's number of each sample, `[B]`, times the weight of its timestep where the objective takes it.
    pub values: &'a [f32],
    /// Errors of the reference `[B]`, where the objective asks for them.
    pub reference_errors: &'a [f32],
    /// Predictions of the reference, flat, where the objective asks for them.
    pub reference: &'a [f32],
    /// Predictions of the average of the weights, flat, where the objective asks for them.
    pub average: &'a [f32],
    /// Units and samples of the whole step.
    pub units: usize,
    /// See `units`.
    pub samples: usize,
    /// Timesteps of the process.
    pub timesteps: usize,
}

impl Predicted<'_> {
    /// `mean_CHW((prediction − target)²)` of each sample, `[B]`.
    pub fn errors(&self) -> Tensor<1> {
        squared_errors(self.prediction.clone(), self.target.clone())
    }

    /// Host values of the shape of the prediction, on its device.
    pub fn like(&self, values: &[f32]) -> Tensor<4> {
        let data = TensorData::new(values.to_vec(), self.prediction.dims());
        Tensor::from_data(data, &self.prediction.device())
    }
}

/// A loss.
pub trait Objective: Send + Sync {
    /// What it needs of the reference.
    fn reference(&self) -> Reference {
        Reference::None
    }

    /// Whether the average of the weights predicts too.
    fn wants_average(&self) -> bool {
        false
    }

    /// Whether min-SNR weights of timesteps go into the samples' numbers.
    fn weighs_timesteps(&self) -> bool {
        false
    }

    /// Whether it compares the samples of a unit, pairs or groups; else every sample stands for itself.
    fn compares(&self) -> bool {
        false
    }

    /// The loss of a micro-batch as its share of the whole step.
    fn loss(&self, at: &Predicted<'_>) -> Tensor<1>;
}

/// Squared errors of predictions on the host to a target.
pub(crate) fn errors_of(prediction: &[f32], target: &[f32], samples: usize) -> Vec<f32> {
    host_errors(prediction, target, samples)
}
