//! The common form of losses over advantages and weights.
//!
//! With the target `u` of the network's prediction `p`, the gradient of many methods with respect to `p` is
//! `a (p• − u) + κ (p − anchor)`:
//!
//! | method | a | p• | κ, anchor |
//! |---|---|---|---|
//! | supervised, best of N, RAFT | 1 | current | 0 |
//! | CRAFT | group advantage of what passes the filter | current | 0 |
//! | RWR | softmax of the reward | current | 0 |
//! | ORW-CFM-W2 (arXiv 2502.06061) | exp(reward/τ) | current | α, base |
//! | AWM at ratio 1 (arXiv 2509.25050) | signed advantage | current | β, base |
//! | RAM (arXiv 2605.10759) | signed reward | current | 1, base |
//! | DiffusionNFT without its normalisers (arXiv 2509.16117) | signed, in [−1, 1] | old | β, old |
//!
//! Signed `a` with the current prediction is convex only for `κ > −a`; with the old one for every `κ > 0`.

use crate::loss::weighted_mse;
use burn::tensor::{Tensor, TensorData};
use craft_core::recipe::{Compared, PullTo, TrainSection};

use super::{Objective, Predicted, Reference};

/// Whose prediction the target is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Target {
    /// The trained network's.
    #[default]
    Current,
    /// The reference's, which drew the samples.
    Old,
}

/// What the prediction is pulled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Anchor {
    /// The reference.
    #[default]
    Base,
    /// The average of the trained weights.
    Average,
}

/// `Σ_b (a_b E_b + κ mean_CHW((p − anchor)²)) / samples`, where `E` is `mean_CHW((p − u)²)` with the current
/// prediction and `mean_CHW(2 (p_old − u) p)` with the old one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Common {
    /// Whose prediction is compared with the target.
    pub target: Target,
    /// Factor on the samples' numbers.
    pub strength: f64,
    /// κ.
    pub pull: f64,
    /// What it pulls to.
    pub anchor: Anchor,
}

impl Common {
    /// The weighted denoising loss: CRAFT's, and that of all methods that only weigh samples.
    pub const WEIGHTED: Self =
        Self { target: Target::Current, strength: 1.0, pull: 0.0, anchor: Anchor::Base };

    /// The form that a recipe asks for.
    pub fn of(section: &TrainSection) -> Self {
        let form = &section.form;
        Self {
            target: match form.compare {
                Compared::Current => Target::Current,
                Compared::Old => Target::Old,
            },
            strength: form.strength,
            pull: form.pull.unwrap_or(0.0),
            anchor: match form.pull_to {
                PullTo::Base => Anchor::Base,
                PullTo::Average => Anchor::Average,
            },
        }
    }

    fn weights(&self, values: &[f32]) -> Vec<f32> {
        if self.strength == 1.0 {
            return values.to_vec();
        }
        values.iter().map(|v| (f64::from(*v) * self.strength) as f32).collect()
    }
}

/// `Σ_b w_b mean_CHW(x) / samples`.
fn weighted_mean(x: Tensor<4>, weights: &[f32], samples: usize) -> Tensor<1> {
    let [b, c, h, w] = x.dims();
    let weights = Tensor::<2>::from_data(TensorData::new(weights.to_vec(), [b, 1]), &x.device());
    (x.reshape([b, c * h * w]).mean_dim(1) * weights).sum().div_scalar(samples as f32)
}

impl Objective for Common {
    fn reference(&self) -> Reference {
        let pulls = self.pull > 0.0 && self.anchor == Anchor::Base;
        match self.target == Target::Old || pulls {
            true => Reference::Prediction,
            false => Reference::None,
        }
    }

    fn wants_average(&self) -> bool {
        self.pull > 0.0 && self.anchor == Anchor::Average
    }

    fn weighs_timesteps(&self) -> bool {
        true
    }

    fn loss(&self, at: &Predicted<'_>) -> Tensor<1> {
        let weights = self.weights(at.values);
        let own = match self.target {
            Target::Current => {
                weighted_mse(at.prediction.clone(), at.target.clone(), &weights, at.samples)
            }
            Target::Old => {
                let slope = (at.like(at.reference) - at.target.clone()).mul_scalar(2.0);
                weighted_mean(slope * at.prediction.clone(), &weights, at.samples)
            }
        };
        if self.pull == 0.0 {
            return own;
        }
        let anchor = match self.anchor {
            Anchor::Base => at.like(at.reference),
            Anchor::Average => at.like(at.average),
        };
        let distance = (at.prediction.clone() - anchor).powi_scalar(2);
        let all = vec![self.pull as f32; at.values.len()];
        own + weighted_mean(distance, &all, at.samples)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::loss::{host_errors, squared_errors};
    use crate::methods::awm::{AwmConfig, awm};
    use burn::tensor::Device;
    use craft_nn::weights::to_vec;

    use super::*;

    const SHAPE: [usize; 4] = [3, 2, 2, 2];

    fn values(seed: f32) -> Vec<f32> {
        (0..24).map(|i| (i as f32 * 0.7 + seed).sin()).collect()
    }

    /// The gradient of a loss with respect to the prediction.
    fn gradient(loss: impl Fn(&Predicted<'_>) -> Tensor<1>, weights: &[f32]) -> Vec<f32> {
        let device = Device::flex().autodiff();
        let tensor = |v: Vec<f32>| Tensor::<4>::from_data(TensorData::new(v, SHAPE), &device);
        let prediction = tensor(values(0.0)).require_grad();
        let (target, reference, average) = (values(1.0), values(2.0), values(3.0));
        let value = loss(&Predicted {
            prediction: prediction.clone(),
            target: tensor(target.clone()),
            values: weights,
            reference_errors: &host_errors(&reference, &target, 3),
            reference: &reference,
            average: &average,
            units: 3,
            samples: 3,
            timesteps: 1000,
        });
        to_vec(prediction.grad(&value.backward()).unwrap())
    }

    /// `2 (a (p• − u) + κ (p − anchor)) / (samples · values of a sample)`.
    fn expected(weights: &[f32], compared: f32, pull: f32, anchor: f32) -> Vec<f32> {
        let (p, u) = (values(0.0), values(1.0));
        let (compared, anchor) = (values(compared), values(anchor));
        (0..24)
            .map(|i| {
                let own = weights[i / 8] * (compared[i] - u[i]) + pull * (p[i] - anchor[i]);
                2.0 * own / 24.0
            })
            .collect()
    }

    fn near(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() < 1e-6, "{f}, {e}");
        }
    }

    #[test]
    fn gradients_are_those_of_the_table() {
        let weights = [0.5, -1.0, 2.0];
        let of = |form: Common| gradient(|at| form.loss(at), &weights);
        let plain = Common::WEIGHTED;
        near(&of(plain), &expected(&weights, 0.0, 0.0, 2.0));
        near(&of(Common { pull: 0.5, ..plain }), &expected(&weights, 0.0, 0.5, 2.0));
        let average = Common { pull: 0.5, anchor: Anchor::Average, ..plain };
        near(&of(average), &expected(&weights, 0.0, 0.5, 3.0));
        let old = Common { target: Target::Old, pull: 0.1, ..plain };
        near(&of(old), &expected(&weights, 2.0, 0.1, 2.0));
        let doubled = [1.0, -2.0, 4.0];
        near(&of(Common { strength: 2.0, ..plain }), &expected(&doubled, 0.0, 0.0, 2.0));
    }

    #[test]
    fn weights_alone_are_the_weighted_denoising_loss_to_the_bit() {
        let weights = [0.5, 0.0, 2.0];
        let form = gradient(|at| Common::WEIGHTED.loss(at), &weights);
        let plain = |at: &Predicted<'_>| {
            weighted_mse(at.prediction.clone(), at.target.clone(), at.values, at.samples)
        };
        assert_eq!(form, gradient(plain, &weights));
    }

    #[test]
    fn awm_at_ratio_1_is_the_form_with_a_pull() {
        let weights = [0.5, -1.0, 2.0];
        // At ratio 1 the reference is the network itself.
        let config = AwmConfig { clip: 1e9, pull: 0.25 };
        let found = gradient(
            |at| {
                let own = to_vec(at.prediction.clone());
                let before = host_errors(&own, &to_vec(at.target.clone()), 3);
                let distances = squared_errors(at.prediction.clone(), at.like(at.reference));
                awm(at.errors(), &before, distances, at.values, config, at.samples)
            },
            &weights,
        );
        near(&found, &gradient(|at| Common { pull: 0.25, ..Common::WEIGHTED }.loss(at), &weights));
    }

    #[test]
    fn nft_without_its_normalisers_is_the_form_with_the_old_prediction() {
        // r ‖v⁺ − u‖² + (1 − r) ‖v⁻ − u‖² with v⁺ = βp + (1−β)p_old, v⁻ = (1+β)p_old − βp; its gradient is
        // 2β ((2r − 1)(p_old − u) + β (p − p_old)).
        let (beta, good) = (0.3f32, [0.9f32, 0.2, 0.5]);
        let found = gradient(
            |at| {
                let old = at.like(at.reference);
                let plus =
                    at.prediction.clone().mul_scalar(beta) + old.clone().mul_scalar(1.0 - beta);
                let minus = old.mul_scalar(1.0 + beta) - at.prediction.clone().mul_scalar(beta);
                let bad: Vec<f32> = good.iter().map(|r| 1.0 - r).collect();
                let all = weighted_mse(plus, at.target.clone(), &good, 3)
                    + weighted_mse(minus, at.target.clone(), &bad, 3);
                all.div_scalar(beta)
            },
            &good,
        );
        let signed: Vec<f32> = good.iter().map(|r| 2.0 * r - 1.0).collect();
        let form = Common { target: Target::Old, pull: f64::from(beta), ..Common::WEIGHTED };
        near(&found, &gradient(|at| form.loss(at), &signed));
    }
}
