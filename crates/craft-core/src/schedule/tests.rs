use super::*;
use crate::sampler::{SAMPLERS, ddim, dpm, euler};

const SD15: &str = r#"{"_class_name":"PNDMScheduler","_diffusers_version":"0.6.0","beta_end":0.012,
  "beta_schedule":"scaled_linear","beta_start":0.00085,"num_train_timesteps":1000,
  "set_alpha_to_one":false,"skip_prk_steps":true,"steps_offset":1,"trained_betas":null,"clip_sample":false}"#;

fn sd15() -> NoiseSchedule {
    NoiseSchedule::from_json(SD15).unwrap()
}

fn with(extra: &str) -> Result<NoiseSchedule, ScheduleError> {
    NoiseSchedule::from_json(&format!("{{{extra}}}"))
}

#[test]
fn stable_diffusion_constants() {
    let s = sd15();
    assert_eq!(s.alphas_cumprod, NoiseSchedule::stable_diffusion().alphas_cumprod);
    assert!((s.alphas_cumprod[0] - 0.99915).abs() < 1e-12);
    // The known last value of Stable Diffusion: ᾱ_999 = 0.0047, σ_max = 14.6146.
    assert!((s.alphas_cumprod[999] - 0.004660).abs() < 1e-6);
    assert!((s.sigmas()[999] - 14.6146).abs() < 1e-3);
    assert!((s.sigmas()[0] - 0.0292).abs() < 1e-4);
    assert_eq!(s.alpha_cumprod(-1), s.alphas_cumprod[0]);
    assert_eq!(with("").unwrap().alpha_cumprod(-1), 1.0);
    assert_eq!(s.class_name.as_deref(), Some("PNDMScheduler"));
}

#[test]
fn ddim_timesteps() {
    let s = sd15();
    let t = s.steps(&ddim::KIND.rules, 50).unwrap().timesteps;
    assert_eq!((t.len(), t[0], t[1], t[49]), (50, 981.0, 961.0, 1.0));
    let t = s.steps(&ddim::KIND.rules, 8).unwrap().timesteps;
    assert_eq!(t, [876.0, 751.0, 626.0, 501.0, 376.0, 251.0, 126.0, 1.0]);
    let trailing = with(r#""timestep_spacing":"trailing""#).unwrap();
    assert_eq!(
        trailing.steps(&ddim::KIND.rules, 4).unwrap().timesteps,
        [999.0, 749.0, 499.0, 249.0]
    );
    assert_eq!(trailing.steps(&ddim::KIND.rules, 3).unwrap().timesteps, [999.0, 666.0, 332.0]);
    let linspace = with(r#""timestep_spacing":"linspace""#).unwrap();
    // np.linspace(0, 999, 5): 0, 249.75, 499.5, 749.25, 999; 499.5 rounds to even.
    assert_eq!(
        linspace.steps(&ddim::KIND.rules, 5).unwrap().timesteps,
        [999.0, 749.0, 500.0, 250.0, 0.0]
    );
    assert_eq!(linspace.steps(&ddim::KIND.rules, 1).unwrap().timesteps, [0.0]);
}

#[test]
fn euler_and_dpm_timesteps() {
    let s = sd15();
    let t = s.steps(&euler::KIND.rules, 5).unwrap().timesteps;
    assert_eq!(t, [999.0, 749.25, 499.5, 249.75, 0.0]);
    assert!((s.sigma_at(749.25) - (0.75 * s.sigmas()[749] + 0.25 * s.sigmas()[750])).abs() < 1e-12);
    // DPM++ 2M, linspace: round(linspace(0, 999, 6))[1..] from the end.
    let t = s.steps(&dpm::KIND.rules, 5).unwrap().timesteps;
    assert_eq!(t, [999.0, 799.0, 599.0, 400.0, 200.0]);
    // The values that diffusers gives for 20 steps of SD 1.5 with linspace spacing.
    let t = s.steps(&dpm::KIND.rules, 20).unwrap().timesteps;
    assert_eq!(&t[..4], [999.0, 949.0, 899.0, 849.0]);
    assert_eq!(&t[17..], [150.0, 100.0, 50.0]);
    let mut leading = s.clone();
    leading.timestep_spacing = Some(TimestepSpacing::Leading);
    // 1000 / 21 = 47: 20·47 + 1 … 1·47 + 1.
    let t = leading.steps(&dpm::KIND.rules, 20).unwrap().timesteps;
    assert_eq!((t[0], t[19]), (941.0, 48.0));
    let t = leading.steps(&euler::KIND.rules, 25).unwrap().timesteps;
    assert_eq!((t[0], t[24]), (961.0, 1.0));
}

#[test]
fn timesteps_stay_in_range_and_fall() {
    for spacing in ["leading", "trailing", "linspace"] {
        let text = format!(r#""timestep_spacing":"{spacing}","steps_offset":1"#);
        let s = with(&text).unwrap();
        for sampler in SAMPLERS {
            for steps in [1, 2, 3, 7, 20, 50, 333, 998, 999] {
                let t = s.steps(&sampler.rules, steps).unwrap().timesteps;
                assert_eq!(t.len(), steps);
                assert!(
                    t.iter().all(|t| (0.0..=999.0).contains(t)),
                    "{spacing} {sampler:?} {steps}"
                );
                assert!(t.windows(2).all(|w| w[0] >= w[1]), "{spacing} {sampler:?} {steps}");
            }
            assert!(matches!(s.steps(&sampler.rules, 0), Err(ScheduleError::Steps { .. })));
            assert!(matches!(s.steps(&sampler.rules, 1001), Err(ScheduleError::Steps { .. })));
        }
    }
}

#[test]
fn zero_terminal_snr_and_cosine() {
    let s = with(r#""rescale_betas_zero_snr":true,"prediction_type":"v_prediction""#).unwrap();
    assert_eq!(*s.alphas_cumprod.last().unwrap(), 0.0);
    assert!((s.alphas_cumprod[0] - (1.0 - 1e-4)).abs() < 1e-12);
    assert!((s.sigmas()[999] - (2.0f64).powi(12)).abs() < 1.0);
    assert!(s.sigmas().iter().all(|x| x.is_finite()));
    assert_eq!(s.prediction_type, PredictionType::VPrediction);
    let cosine = with(r#""beta_schedule":"squaredcos_cap_v2""#).unwrap();
    assert_eq!(*cosine.betas.last().unwrap(), 0.999);
    // ᾱ telescopes to the ratio of squared cosines.
    let bar = |t: f64| ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2).cos().powi(2);
    assert!((cosine.alphas_cumprod[499] - bar(0.5) / bar(0.0)).abs() < 1e-12);
}

#[test]
fn unknown_values_are_named() {
    for (text, key, value) in [
        (r#""beta_schedule":"sigmoid""#, "beta_schedule", "sigmoid"),
        (r#""prediction_type":"sample""#, "prediction_type", "sample"),
        (r#""timestep_spacing":3"#, "timestep_spacing", "3"),
        (r#""final_sigmas_type":"one""#, "final_sigmas_type", "one"),
        (r#""sigma_min":0"#, "sigma_min", "0"),
        (
            r#""use_karras_sigmas":true,"use_exponential_sigmas":true"#,
            "use_exponential_sigmas",
            "true",
        ),
        (r#""beta_end":1.5"#, "beta_end", "1.5"),
        (r#""num_train_timesteps":0"#, "num_train_timesteps", "0"),
        (r#""trained_betas":[0.1]"#, "trained_betas", "length 1"),
        (r#""_class_name":"FlowMatchEulerDiscreteScheduler""#, "_class_name", "FlowMatch"),
    ] {
        let message = with(text).unwrap_err().to_string();
        assert!(message.contains(key) && message.contains(value), "{message}");
    }
    assert!(matches!(NoiseSchedule::from_json("{"), Err(ScheduleError::Json(_))));
    assert!(matches!(with(r#""beta_start":"x""#), Err(ScheduleError::Json(_))));
}

/// What a sampler cannot do is refused by that sampler and no other.
#[test]
fn settings_concern_the_samplers_that_read_them() {
    let (ddim, euler, dpm) = (ddim::KIND, euler::KIND, dpm::KIND);
    for (text, key, refused_by) in [
        (r#""thresholding":true"#, "thresholding", &[ddim, dpm][..]),
        (r#""use_beta_sigmas":true"#, "use_beta_sigmas", &[euler, dpm]),
        (r#""interpolation_type":"log_linear""#, "interpolation_type", &[euler]),
        (r#""algorithm_type":"sde-dpmsolver++""#, "algorithm_type", &[dpm]),
        (r#""use_exponential_sigmas":true"#, "use_exponential_sigmas", &[dpm]),
        (r#""solver_order":3"#, "solver_order", &[dpm]),
        (r#""variance_type":"learned_range""#, "variance_type", &[dpm]),
        (r#""rescale_betas_zero_snr":true"#, "rescale_betas_zero_snr", &[ddim]),
        (r#""variance_type":null,"thresholding":false"#, "", &[]),
    ] {
        let schedule = with(text).unwrap();
        for &sampler in SAMPLERS {
            match schedule.steps(&sampler.rules, 5) {
                Ok(_) => assert!(!refused_by.contains(&sampler), "{text} {sampler:?}"),
                Err(error) => {
                    assert!(refused_by.contains(&sampler), "{text} {sampler:?}");
                    assert!(error.to_string().contains(key), "{error}");
                }
            }
        }
    }
}

#[test]
fn infinities_of_python_are_read() {
    let s = with(r#""lambda_min_clipped": -Infinity, "steps_offset": 1"#).unwrap();
    assert_eq!((s.sampling.lambda_min_clipped, s.steps_offset), (f64::NEG_INFINITY, Some(1)));
}
