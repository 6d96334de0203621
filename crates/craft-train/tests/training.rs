//! The optimizer loop's parts: AdamW, accumulation, clipping, resuming, the objective, the guard.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use craft_core::process::{Level, PredictionType};
use craft_core::recipe::{LrSchedule, TrainSection};
use craft_core::sampler::guide;
use craft_nn::init::Init;
use craft_nn::layers::{Conv2d, Linear};
use craft_nn::weights;
use craft_train::guard::NanGuard;
use craft_train::loss::weighted_mse;
use craft_train::optimizer::{AdamW, AdamWConfig, GradMap, collect, norm};
use craft_train::settings::Settings;

fn device() -> Device {
    Device::flex().autodiff()
}

/// Smooth numbers without a generator.
fn wave(count: usize, phase: f32) -> Vec<f32> {
    (0..count).map(|i| (0.7 * i as f32 + phase).sin()).collect()
}

fn tensor(data: Vec<f32>, shape: [usize; 4]) -> Tensor<4> {
    Tensor::from_data(TensorData::new(data, shape), &device())
}

fn grads_of(step: usize) -> GradMap {
    let grad = |count, phase: f32| wave(count, phase + step as f32);
    GradMap::from([("weight".to_owned(), grad(15, 0.0)), ("bias".to_owned(), grad(3, 9.0))])
}

fn export<M: Module>(model: &M) -> Vec<(String, Vec<f32>)> {
    weights::export(model).into_iter().map(|(name, t)| (name, t.data)).collect()
}

#[test]
fn adamw_is_the_formula() {
    let config = AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() };
    let (lr, scale) = (0.01, 0.5);
    let mut model = Linear::new(&mut Init::seeded(1, &device()), 5, 3, true);
    let mut expected: Vec<(String, Vec<f64>)> = export(&model)
        .into_iter()
        .map(|(name, data)| (name, data.into_iter().map(f64::from).collect()))
        .collect();
    let mut moments: Vec<Vec<[f64; 2]>> =
        expected.iter().map(|(_, data)| vec![[0.0; 2]; data.len()]).collect();
    let mut optimizer = AdamW::new(config, None);
    for t in 1..=6 {
        let grads = grads_of(t);
        model = optimizer.step(model, &grads, lr, scale);
        let correction = [1.0 - config.beta1.powi(t as i32), 1.0 - config.beta2.powi(t as i32)];
        for ((name, values), moments) in expected.iter_mut().zip(&mut moments) {
            for ((p, [m, v]), g) in values.iter_mut().zip(moments).zip(&grads[name]) {
                let g = scale * f64::from(*g);
                *m = config.beta1 * *m + (1.0 - config.beta1) * g;
                *v = config.beta2 * *v + (1.0 - config.beta2) * g * g;
                *p -= lr * config.weight_decay * *p;
                *p -= lr * (*m / correction[0]) / ((*v / correction[1]).sqrt() + config.eps);
            }
        }
    }
    assert_eq!(optimizer.steps, 6);
    for ((name, found), (_, expected)) in export(&model).iter().zip(&expected) {
        for (a, b) in found.iter().zip(expected) {
            assert!((f64::from(*a) - b).abs() < 1e-6, "{name}: {a} against {b}");
        }
    }
}

#[test]
fn a_parameter_without_a_gradient_stays() {
    let model = Linear::new(&mut Init::seeded(1, &device()), 5, 3, true);
    let before = export(&model);
    let mut grads = grads_of(1);
    grads.remove("bias");
    let after = export(&AdamW::new(AdamWConfig::default(), None).step(model, &grads, 0.01, 1.0));
    assert_eq!(before[0], after[0]);
    assert_ne!(before[1], after[1]);
}

#[test]
fn accumulated_micro_batches_are_one_big_batch() {
    let model = Conv2d::same(&mut Init::seeded(2, &device()), 3, 4, 3);
    let x = tensor(wave(4 * 3 * 5 * 6, 0.0), [4, 3, 5, 6]);
    let target = tensor(wave(4 * 4 * 5 * 6, 2.0), [4, 4, 5, 6]);
    let w = [0.5, 1.5, 0.0, 2.0];
    let accumulate = |micro: usize| {
        let (mut grads, mut loss) = (GradMap::new(), 0.0);
        for start in (0..4).step_by(micro) {
            let end = (start + micro).min(4);
            let part = |t: &Tensor<4>| t.clone().narrow(0, start, end - start);
            let part = weighted_mse(model.forward(part(&x)), part(&target), &w[start..end], 4);
            loss += weights::to_vec(part.clone())[0];
            collect(&model, part.backward(), &mut grads);
        }
        (grads, loss)
    };
    let (whole, loss) = accumulate(4);
    assert_eq!(whole.keys().collect::<Vec<_>>(), ["bias", "weight"]);
    for micro in [1, 2, 3] {
        let (grads, sum) = accumulate(micro);
        assert!((loss - sum).abs() < 1e-6 * loss.abs());
        for (name, grad) in &grads {
            let top = whole[name].iter().fold(0f32, |m, g| m.max(g.abs()));
            for (a, b) in grad.iter().zip(&whole[name]) {
                assert!((a - b).abs() < 1e-5 * top, "{name} in parts of {micro}: {a} against {b}");
            }
        }
    }
}

#[test]
fn the_norm_is_over_all_gradients() {
    let grads =
        GradMap::from([("a".to_owned(), vec![3.0, 0.0]), ("b".to_owned(), vec![0.0, 4.0, 12.0])]);
    assert!((norm(&grads) - 13.0).abs() < 1e-9);
}

#[test]
fn a_resumed_run_is_the_uninterrupted_one() {
    let fresh = || Linear::new(&mut Init::seeded(3, &device()), 5, 3, true);
    let optimizer = || AdamW::new(AdamWConfig::default(), Some(0.9));
    let (mut model, mut whole) = (fresh(), optimizer());
    for step in 0..8 {
        model = whole.step(model, &grads_of(step), 0.01, 1.0);
    }

    let (mut first, mut before) = (fresh(), optimizer());
    for step in 0..3 {
        first = before.step(first, &grads_of(step), 0.01, 1.0);
    }
    let saved = weights::export(&first);
    let mut after = optimizer();
    after.restore(before.steps, before.state());
    let mut second = weights::load(fresh(), saved).unwrap();
    for step in 3..8 {
        second = after.step(second, &grads_of(step), 0.01, 1.0);
    }
    assert_eq!(export(&second), export(&model));
    assert_eq!(after.state(), whole.state());
    assert_eq!((after.steps, after.ema()), (8, whole.ema()));
    assert!(whole.state().contains_key("ema.weight"));
}

#[test]
fn the_average_follows_the_parameters() {
    let mut model = Linear::new(&mut Init::seeded(4, &device()), 5, 3, true);
    assert!(AdamW::new(AdamWConfig::default(), None).ema().is_none());
    let mut optimizer = AdamW::new(AdamWConfig::default(), Some(0.5));
    let mut expected: Vec<f32> = vec![];
    for step in 0..20 {
        model = optimizer.step(model, &grads_of(step), 0.01, 1.0);
        let values = &export(&model)[0].1;
        let t = (step + 1) as f32;
        let decay = f32::min(0.5, (1.0 + t) / (10.0 + t));
        if expected.is_empty() {
            expected.clone_from(values);
        }
        expected.iter_mut().zip(values).for_each(|(e, p)| *e = decay * *e + (1.0 - decay) * p);
    }
    for (a, b) in optimizer.ema().unwrap()["bias"].iter().zip(&expected) {
        assert!((a - b).abs() < 1e-6, "{a} against {b}");
    }
}

#[test]
fn the_weighted_squared_error_is_what_it_says() {
    let prediction = tensor(vec![1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0], [2, 1, 2, 2]);
    let target = tensor(vec![0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0], [2, 1, 2, 2]);
    let value = |w: &[f32], batch| {
        weights::to_vec(weighted_mse(prediction.clone(), target.clone(), w, batch))[0]
    };
    // Means of the squares: 30 / 4 and 4.
    assert_eq!(value(&[1.0, 1.0], 2), (7.5 + 4.0) / 2.0);
    assert_eq!(value(&[2.0, 0.5], 2), (15.0 + 2.0) / 2.0);
    assert_eq!(value(&[0.0, 1.0], 8), 4.0 / 8.0);
}

#[test]
fn noising_and_its_targets() {
    let (clean, noise) = ([1.0f32, -2.0], [0.5f32, 3.0]);
    for (kind, expected) in [
        (PredictionType::Epsilon, [0.5f32, 3.0]),
        (PredictionType::VPrediction, [0.8 * 0.5 - 0.6, 0.8 * 3.0 + 0.6 * 2.0]),
    ] {
        let (mut noisy, mut target) = (vec![], vec![]);
        let level = Level::of_alpha(0.0, 0.64);
        let process = kind.over(vec![level]);
        process.noised(level, &clean, &noise, &mut noisy);
        process.target(level, &clean, &noise, &mut target);
        for (a, b) in noisy.iter().zip([0.8 + 0.3, -1.6 + 1.8]) {
            assert!((a - b).abs() < 1e-6);
        }
        for (a, b) in target.iter().zip(expected) {
            assert!((a - b).abs() < 1e-6, "{kind:?}: {a} against {b}");
        }
    }
}

#[test]
fn guidance_extrapolates() {
    assert_eq!(guide(&[1.0, 2.0], &[2.0, 0.0], 1.0), [2.0, 0.0]);
    assert_eq!(guide(&[1.0, 2.0], &[2.0, 0.0], 4.0), [5.0, -6.0]);
}

#[test]
fn the_learning_rate_warms_up_and_decays() {
    let settings = |lr_schedule, warmup_steps, steps, learning_rate| {
        let section =
            TrainSection { lr_schedule, warmup_steps, steps, learning_rate, ..Default::default() };
        Settings::of(&section)
    };
    let rate = |shape, step| settings(shape, 4, 12, 1.0).rate(step);
    assert_eq!([0, 1, 3].map(|step| rate(LrSchedule::Constant, step)), [0.25, 0.5, 1.0]);
    assert_eq!([4, 7, 11].map(|step| rate(LrSchedule::Constant, step)), [1.0; 3]);
    assert_eq!(rate(LrSchedule::Cosine, 4), 1.0);
    assert!((rate(LrSchedule::Cosine, 8) - 0.5).abs() < 1e-12);
    assert!(
        (5..13).all(|step| rate(LrSchedule::Cosine, step) < rate(LrSchedule::Cosine, step - 1))
    );
    assert!(rate(LrSchedule::Cosine, 12).abs() < 1e-12);
    assert_eq!(settings(LrSchedule::Constant, 0, 0, 0.1).rate(0), 0.1);
}

#[test]
fn the_guard_skips_and_then_stops() {
    let mut guard = NanGuard::new(3);
    let batch = ["p00001-v01-s0".to_owned()];
    assert!(guard.admit(0, 0.5, 1.0, &batch).unwrap());
    assert!(!guard.admit(1, f64::NAN, 1.0, &batch).unwrap());
    assert!(!guard.admit(2, 0.5, f64::INFINITY, &batch).unwrap());
    // A good update forgives.
    assert!(guard.admit(3, 0.5, 1.0, &batch).unwrap());
    assert_eq!((guard.consecutive, guard.skipped), (0, 2));
    assert!(!guard.admit(4, f64::NAN, 1.0, &batch).unwrap());
    assert!(!guard.admit(5, f64::NAN, 1.0, &batch).unwrap());
    let stop = guard.admit(6, f64::NAN, 1.0, &batch).unwrap_err();
    assert_eq!((stop.step, stop.consecutive), (6, 3));
    let message = stop.to_string();
    assert!(message.contains("step 6") && message.contains("p00001-v01-s0"), "{message}");
}
