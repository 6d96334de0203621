//! The inequalities of docs/theory.md on a diffusion model of one number whose likelihood is known
//! exactly: reverse steps that are linear in x leave every marginal Gaussian.
#![allow(clippy::unwrap_used, missing_docs)]

use craft_core::rng::Key;
use std::f64::consts::TAU;

const STEPS: usize = 6;

/// Forward process with β from 0.05 to 0.6; reverse variances σ_t² = β_t.
struct Process {
    beta: [f64; STEPS],
    bar: [f64; STEPS],
}

/// ε_θ(x, t) = a_t x + b_t.
type Theta = [(f64, f64); STEPS];

fn log_normal(x: f64, mean: f64, variance: f64) -> f64 {
    -0.5 * ((x - mean).powi(2) / variance + (TAU * variance).ln())
}

impl Process {
    fn new() -> Self {
        let beta = std::array::from_fn(|t| 0.05 + 0.55 * t as f64 / (STEPS - 1) as f64);
        let mut product = 1.0;
        let bar = beta.map(|b| {
            product *= 1.0 - b;
            product
        });
        Self { beta, bar }
    }

    /// log p_θ(x), exact.
    fn log_likelihood(&self, theta: &Theta, x: f64) -> f64 {
        let (mut mean, mut variance) = (0.0, 1.0);
        for t in (0..STEPS).rev() {
            let (a, b) = theta[t];
            let (root, step) =
                ((1.0 - self.beta[t]).sqrt(), self.beta[t] / (1.0 - self.bar[t]).sqrt());
            let slope = (1.0 - step * a) / root;
            mean = slope * mean - step * b / root;
            variance = slope * slope * variance + self.beta[t];
        }
        log_normal(x, mean, variance)
    }

    /// Σ_t ω_t E_ε (ε_θ(x_t, t) − ε)², ω_t = β_t² / (2 σ_t² α_t (1 − ᾱ_t)).
    fn loss(&self, theta: &Theta, x: f64) -> f64 {
        (0..STEPS)
            .map(|t| {
                let ((a, b), beta, bar) = (theta[t], self.beta[t], self.bar[t]);
                let omega = beta / (2.0 * (1.0 - beta) * (1.0 - bar));
                let noise = (1.0 - bar).sqrt();
                omega * ((a * bar.sqrt() * x + b).powi(2) + (a * noise - 1.0).powi(2))
            })
            .sum()
    }

    /// The part of the evidence lower bound without θ.
    fn constant(&self, x: f64) -> f64 {
        let last = self.bar[STEPS - 1];
        let start = 0.5 * (last * x * x + (1.0 - last) - 1.0 - (1.0 - last).ln());
        let variances: f64 = (1..STEPS)
            .map(|t| {
                let ratio = (1.0 - self.bar[t - 1]) / (1.0 - self.bar[t]);
                0.5 * (ratio - 1.0 - ratio.ln())
            })
            .sum();
        -start - variances - 0.5 * (TAU * self.beta[0]).ln()
    }
}

fn normals(name: &str, count: usize) -> Vec<f64> {
    let draw = Key::new(5).stage(name).standard_normals(count);
    draw.into_iter().map(f64::from).collect()
}

/// A denoiser that is the best one for data N(`centre`, 1), disturbed.
fn theta(p: &Process, centre: f64, disturbance: f64, draw: &[f64]) -> Theta {
    std::array::from_fn(|t| {
        let noise = (1.0 - p.bar[t]).sqrt();
        let (a, b) = (noise, -noise * p.bar[t].sqrt() * centre);
        (a + disturbance * draw[2 * t], b + disturbance * draw[2 * t + 1])
    })
}

#[test]
fn the_weighted_loss_bounds_the_log_likelihood() {
    let p = Process::new();
    let draw = normals("theta", 2 * STEPS * 200);
    for (i, draw) in draw.chunks(2 * STEPS).enumerate() {
        let theta = theta(&p, 0.5, 0.4 * (i % 5) as f64, draw);
        for x in [-3.0, -0.7, 0.0, 0.4, 2.0] {
            let (exact, bound) = (p.log_likelihood(&theta, x), p.constant(x) - p.loss(&theta, x));
            assert!(exact >= bound - 1e-9, "x = {x}: {exact} below {bound}");
            if i % 5 == 0 {
                assert!(exact - bound < 1.5, "the bound is loose: {exact}, {bound}");
            }
        }
    }
}

/// Group objective and its bound `const − L`, as functions of θ.
fn objective(p: &Process, old: &Theta, new: &Theta, x: &[f64], q: &[f64]) -> (f64, f64, f64) {
    let n = x.len() as f64;
    let (mut j, mut tangent, mut bound) = (0.0, 0.0, 0.0);
    for (&x, &q) in x.iter().zip(q) {
        let (before, after) = (p.log_likelihood(old, x), p.log_likelihood(new, x));
        j += q * (after - before).exp() / n;
        tangent += q * (1.0 + after - before) / n;
        bound += q * (1.0 - before + p.constant(x) - p.loss(new, x)) / n;
    }
    (j, tangent, bound)
}

/// A group's samples and its advantages, standardised: random, and so of both signs.
fn group(draw: &[f64]) -> (Vec<f64>, Vec<f64>) {
    let (x, totals) = draw.split_at(draw.len() / 2);
    let n = totals.len() as f64;
    let mean = totals.iter().sum::<f64>() / n;
    let std = (totals.iter().map(|t| (t - mean).powi(2)).sum::<f64>() / n).sqrt();
    (x.to_vec(), totals.iter().map(|t| (t - mean) / std).collect())
}

fn positive(advantages: &[f64]) -> Vec<f64> {
    advantages.iter().map(|a| a.max(0.0)).collect()
}

#[test]
fn the_weighted_loss_bounds_the_group_objective() {
    let p = Process::new();
    const DRAWS: usize = 3000;
    let steps = normals("steps", 2 * STEPS * DRAWS);
    let groups = normals("group", 16 * DRAWS);
    let old = theta(&p, 0.0, 0.0, &steps);
    let mut signed_breaks = 0;
    for (i, (draw, numbers)) in steps.chunks(2 * STEPS).zip(groups.chunks(16)).enumerate() {
        let (x, advantages) = group(numbers);
        let new = theta(&p, 0.1 * (i % 9) as f64 - 0.4, 0.1 * (i % 4) as f64, draw);
        let (j, tangent, bound) = objective(&p, &old, &new, &x, &positive(&advantages));
        let rounding = 1e-9 * j.abs().max(1.0);
        assert!(j >= tangent - rounding && tangent >= bound - rounding, "{j}, {tangent}, {bound}");
        let (j, _, bound) = objective(&p, &old, &new, &x, &advantages);
        signed_breaks += usize::from(j < bound);
    }
    assert!(signed_breaks > 0, "with signed weights the loss bounds nothing");
}

#[test]
fn for_a_small_step_the_first_bound_is_an_equality() {
    let p = Process::new();
    let steps = normals("small steps", 2 * STEPS * 200);
    let groups = normals("small groups", 16 * 200);
    let old = theta(&p, 0.0, 0.0, &steps);
    for (draw, numbers) in steps.chunks(2 * STEPS).zip(groups.chunks(16)) {
        let (x, advantages) = group(numbers);
        let weights = positive(&advantages);
        let (start, _, _) = objective(&p, &old, &old, &x, &weights);
        let gap = |h: f64| {
            let (j, tangent, _) = objective(&p, &old, &theta(&p, 0.0, h, draw), &x, &weights);
            (j - tangent, (j - start).abs())
        };
        assert!(gap(0.0).0.abs() < 1e-12, "the bound touches at the old parameters");
        let [(large, _), (small, change)] = [gap(1e-2), gap(1e-3)];
        // The gap falls with the square of the step, the change of the objective with the step itself.
        assert!((0.005..0.02).contains(&(small / large)), "{small} after {large}");
        assert!(small < 0.2 * change || change < 1e-4, "{small} of a change of {change}");
    }
}

#[test]
fn a_signed_weight_turns_the_bound_around() {
    // One sample with a negative advantage, and a denoiser that has forgotten it a little: the objective
    // falls short of what the loss promises.
    let p = Process::new();
    let draw = normals("theta", 2 * STEPS);
    let (old, new) = (theta(&p, 0.0, 0.0, &draw), theta(&p, 0.8, 0.0, &draw));
    let (j, tangent, bound) = objective(&p, &old, &new, &[-1.0], &[-1.0]);
    assert!(j < tangent && tangent < bound, "{j}, {tangent}, {bound}");
    let (j, tangent, bound) = objective(&p, &old, &new, &[-1.0], &[1.0]);
    assert!(j > tangent && tangent > bound, "{j}, {tangent}, {bound}");
}
