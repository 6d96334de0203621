//! Losses over preferences against PyTorch: values and gradients of `fixtures/preference_losses.py`.
#![allow(clippy::unwrap_used, missing_docs)]

use burn::tensor::{Device, Tensor, TensorData};
use craft_core::sampler::ddim::Ddim;
use craft_core::sampler::{Sampler, advance};
use craft_core::schedule::NoiseSchedule;
use craft_nn::weights::to_vec;
use craft_train::loss::{host_errors, squared_errors};
use craft_train::methods::awm::{AwmConfig, awm};
use craft_train::methods::dpo::dpo;
use craft_train::methods::kto::kto;
use craft_train::methods::lair::{centred_weights, lair};
use craft_train::methods::mapo::{MapoConfig, mapo};
use craft_train::methods::nft::{nft, optimality};
use craft_train::methods::spo::{SpoConfig, clear_pair, spo};
use craft_train::online::stochastic::{ddpo, stochastic_steps};

const ERRORS: [f32; 6] = [0.30, 0.42, 0.55, 0.20, 0.11, 0.61];
const REFERENCE: [f32; 6] = [0.31, 0.40, 0.52, 0.24, 0.12, 0.60];

fn leaf<const D: usize>(data: &[f32], shape: [usize; D]) -> Tensor<D> {
    let device = Device::flex().autodiff();
    Tensor::from_data(TensorData::new(data.to_vec(), shape), &device).require_grad()
}

#[track_caller]
fn close(name: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (a, b) in found.iter().zip(expected) {
        assert!((f64::from(*a) - b).abs() < 2e-5 * b.abs().max(1.0), "{name}: {a} against {b}");
    }
}

/// Value and gradient with respect to the errors.
#[track_caller]
fn check(name: &str, loss: impl Fn(Tensor<1>) -> Tensor<1>, value: f64, gradient: [f64; 6]) {
    let errors = leaf(&ERRORS, [6]);
    let loss = loss(errors.clone());
    close(name, &to_vec(loss.clone()), &[value]);
    let mut grads = loss.backward();
    close(name, &to_vec(errors.grad_remove(&mut grads).unwrap()), &gradient);
}

#[test]
fn dpo_is_the_reference_s() {
    check(
        "dpo",
        |m| dpo(m, &REFERENCE, 50.0, 3),
        0.923_724_047,
        [
            2.673_510_840,
            -2.673_510_840,
            7.099_606_683,
            -7.099_606_683,
            3.146_172_240,
            -3.146_172_240,
        ],
    );
}

#[test]
fn kto_is_the_reference_s() {
    let liked = [true, false, true, true, false, false];
    check(
        "kto",
        |m| kto(m, &REFERENCE, &liked, 10.0, 6),
        0.483_490_279,
        [
            0.415_626_734,
            -0.412_527_621,
            0.407_430_519,
            0.400_434_576,
            -0.415_626_734,
            -0.415_626_734,
        ],
    );
    // A gain that all samples share moves the reference point with it and changes nothing else.
    let shifted = REFERENCE.map(|r| r + 0.02);
    check(
        "kto, everything shifted",
        |m| kto(m, &shifted, &liked, 10.0, 6),
        0.483_490_279,
        [
            0.415_626_734,
            -0.412_527_621,
            0.407_430_519,
            0.400_434_576,
            -0.415_626_734,
            -0.415_626_734,
        ],
    );
}

#[test]
fn mapo_is_the_reference_s() {
    check(
        "mapo",
        |m| mapo(m, MapoConfig::default(), 3),
        3.054_634_671,
        [0.333_333_333, 0.0, 7.904_698_226, -8.055_648_115, 0.333_333_333, 0.0],
    );
    // Errors of 0 have odds of 1, not 0/0.
    let loss = mapo(leaf(&[0.0, 0.0], [2]), MapoConfig::default(), 1);
    close("mapo at 0", &to_vec(loss), &[0.1 * std::f64::consts::LN_2]);
}

#[test]
fn lair_is_the_formula() {
    let groups = [centred_weights(&[0.5, -1.0, 0.2], 1.5), centred_weights(&[2.0, 1.0, -3.0], 1.5)];
    let weights: Vec<f32> = groups.concat().into_iter().map(|w| w as f32).collect();
    close(
        "weights",
        &weights,
        &[
            0.123_995_551,
            -0.165_091_439,
            0.041_095_888,
            0.312_206_488,
            -0.001_902_138,
            -0.310_304_350,
        ],
    );
    check(
        "lair",
        |m| lair(m, &REFERENCE, &weights, 4.0, 6),
        -0.008_320_793,
        [
            0.055_997_034,
            -0.056_727_626,
            0.107_397_259,
            0.101_470_992,
            -0.027_934_759,
            -0.180_202_900,
        ],
    );
}

#[test]
fn awm_clips_on_the_side_where_it_has_won_enough() {
    let advantages = [1.2, -0.7, 0.3, -1.5, 0.9, 0.0];
    let config = AwmConfig { clip: 0.02, pull: 0.5 };
    check(
        "awm",
        |m| awm(m, &REFERENCE, leaf(&[0.0; 6], [6]), &advantages, config, 6),
        -0.027_480_630,
        [0.202_010_033, -0.114_356_512, 0.048_522_277, -0.260_202_694, 0.151_507_525, 0.0],
    );
    // A good sample far above its start is left alone; the pull counts as it says.
    let errors = leaf(&[0.1], [1]);
    let loss = awm(errors.clone(), &[0.3], leaf(&[0.4], [1]), &[2.0], config, 1);
    close("awm", &to_vec(loss.clone()), &[-2.0 * 1.02 + 0.5 * 0.4]);
    let mut grads = loss.backward();
    close("clipped", &to_vec(errors.grad_remove(&mut grads).unwrap()), &[0.0]);
}

#[test]
fn nft_is_the_reference_s_with_noise_in_the_place_of_velocity() {
    let prediction = leaf(&[0.2, -0.4, 0.9, 0.1, 1.0, 0.3, -0.2, 0.5], [2, 1, 2, 2]);
    let target = leaf(&[0.3, -0.9, 0.6, 0.2, 1.1, 0.1, -0.6, 0.4], [2, 1, 2, 2]);
    let old = [0.1, -0.3, 1.0, 0.0, 0.8, 0.4, -0.1, 0.7];
    let loss = nft(prediction.clone(), target, &old, &[0.8, 0.25], 0.5, 2);
    close("nft", &to_vec(loss.clone()), &[0.814_168_895]);
    let mut grads = loss.backward();
    close(
        "nft",
        &to_vec(prediction.grad_remove(&mut grads).unwrap()),
        &[
            -0.068_750_000,
            0.285_416_667,
            0.177_083_333,
            -0.068_750_000,
            0.131_016_043,
            -0.097_593_583,
            -0.140_374_332,
            -0.131_016_043,
        ],
    );
    assert_eq!([-9.0, -5.0, 0.0, 2.5, 5.0].map(|a| optimality(a, 5.0)), [0.0, 0.0, 0.5, 0.75, 1.0]);
}

#[test]
fn errors_on_the_host_are_those_on_the_device() {
    let (a, b) = ([0.2, -0.4, 0.9, 0.1, 1.0, 0.3, -0.2, 0.5], [0.0; 8]);
    let device = to_vec(squared_errors(leaf(&a, [2, 1, 2, 2]), leaf(&b, [2, 1, 2, 2])));
    let host: Vec<f64> = host_errors(&a, &b, 2).into_iter().map(f64::from).collect();
    close("errors", &device, &host);
    close("errors", &device, &[1.02 / 4.0, 1.38 / 4.0]);
}

#[test]
fn stochastic_steps_are_ddim_s() {
    for prediction in ["epsilon", "v_prediction"] {
        let text = format!(
            r#"{{"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
            "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false,
            "steps_offset": 1, "prediction_type": "{prediction}"}}"#
        );
        let schedule = NoiseSchedule::from_json(&text).unwrap();
        let (x, out) = ([0.4f32, -1.2, 0.8], [0.3f32, -0.9, 1.1]);
        let process = schedule.process();
        let mut sampler = Ddim::new(&schedule, 8).unwrap();
        let still = stochastic_steps(&schedule, 8, 0.0).unwrap();
        for (i, step) in still.iter().enumerate() {
            let mut next = x;
            advance(&mut sampler, process.as_ref(), i, &out, &mut next, &[]);
            close("mean", &step.mean(&x, &out), &next.map(f64::from));
            close("target", &step.target(&x, &next), &out.map(f64::from));
            // All noise taken away leads to the clean latents.
            let t = step.timestep as i64;
            let alpha = schedule.alpha_cumprod(t);
            let (a, s) = (alpha.sqrt(), (1.0 - alpha).sqrt());
            let clean = |x: f32, o: f32| match prediction {
                "epsilon" => (f64::from(x) - s * f64::from(o)) / a,
                _ => a * f64::from(x) - s * f64::from(o),
            };
            let expected: Vec<f64> = x.iter().zip(&out).map(|(x, o)| clean(*x, *o)).collect();
            close("clean", &step.clean(&x, &out), &expected);
            assert_eq!((step.std, step.timestep), (0.0, sampler.input(i).level.time));
        }
        // With noise, the variance of the next latents stays that of the forward process.
        for (step, still) in stochastic_steps(&schedule, 8, 1.0).unwrap().iter().zip(&still) {
            assert!(step.std > 0.0 && step.timestep == still.timestep);
            let t = step.timestep as i64;
            let [now, next] = [t, t - 125].map(|t| schedule.alpha_cumprod(t));
            let expected = (1.0 - next) / (1.0 - now) * (1.0 - now / next);
            assert!((step.std.powi(2) - expected).abs() < 1e-9);
        }
    }
}

#[test]
fn ddpo_is_policy_gradient_where_nothing_has_changed() {
    // At ρ = 1: the gradient of −Â log p.
    let errors = leaf(&[0.5, 0.2], [2]);
    let loss = ddpo(errors.clone(), &[0.5, 0.2], &[3.0, 2.0], &[1.5, -0.5], 1e-4, 2);
    close("ddpo", &to_vec(loss.clone()), &[-(1.5 - 0.5) / 2.0]);
    let mut grads = loss.backward();
    let found = to_vec(errors.grad_remove(&mut grads).unwrap());
    close("ddpo", &found, &[1.5 * 3.0 / 2.0, -0.5 * 2.0 / 2.0]);
    // Beyond the clip nothing pulls further, on either side.
    let errors = leaf(&[0.4, 0.3], [2]);
    let loss = ddpo(errors.clone(), &[0.5, 0.2], &[3.0, 2.0], &[1.5, -0.5], 1e-2, 2);
    let mut grads = loss.backward();
    close("clipped", &to_vec(errors.grad_remove(&mut grads).unwrap()), &[0.0, 0.0]);
}

#[test]
fn spo_is_the_reference_s() {
    let scales = [1.0, 2.0, 0.5];
    check(
        "spo",
        |m| spo(m, &REFERENCE, &scales, SpoConfig::default(), 3),
        0.939_723_105,
        [
            1.418_524_944,
            -1.418_524_944,
            5.347_892_590,
            -5.347_892_590,
            0.791_701_354,
            -0.791_701_354,
        ],
    );
    // Where a ratio has gone far enough, on either side, nothing moves it further.
    let errors: Vec<f32> =
        REFERENCE.iter().zip([-0.3, 0.01, 0.02, 0.3, -0.2, 0.4]).map(|(r, d)| r + d).collect();
    let errors = leaf(&errors, [6]);
    let loss = spo(errors.clone(), &REFERENCE, &scales, SpoConfig::default(), 3);
    close("spo, clipped", &to_vec(loss.clone()), &[0.281_402_163]);
    let mut grads = loss.backward();
    let found = to_vec(errors.grad_remove(&mut grads).unwrap());
    close("spo, clipped", &found, &[0.0, -0.862_099_718, 2.281_183_893, 0.0, 0.0, 0.0]);
}

#[test]
fn a_pair_is_the_best_and_the_worst_where_they_differ_clearly() {
    // Shares of .72 and .28, and of .62 and .38.
    assert_eq!(clear_pair(&[0.1, 0.95, 0.0, 0.3], 0.3), Some([1, 2]));
    assert_eq!(clear_pair(&[0.1, 0.5, 0.0, 0.3], 0.3), None);
    assert_eq!(clear_pair(&[f64::NAN, 5.0, 0.0], 0.3), Some([1, 2]));
    assert_eq!(clear_pair(&[f64::NAN], 0.3), None);
}
