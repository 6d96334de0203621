use super::*;
use crate::schedule::{NoiseSchedule, Rules, ScheduleError, Steps};

/// Heun (Karras et al. 2022, algorithm 1): two calls a step, but for the last. A fifth sampler as its file would
/// add it.
const HEUN: &Entry = &Entry {
    name: "heun",
    label: "Heun",
    help: "of second order, two calls a step",
    stochastic: false,
    turbo: false,
    rules: Rules { fractional: true, final_sigma: true, ..Rules::of("HeunDiscrete") },
    new: |schedule, steps| Ok(Box::new(Heun::new(schedule, steps)?)),
};

struct Heun {
    steps: Steps,
    /// Where a step began, and the slope there.
    began: Option<(Vec<f64>, Vec<f64>)>,
}

impl Heun {
    fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        Ok(Self { steps: schedule.steps(&HEUN.rules, steps)?, began: None })
    }
}

impl Sampler for Heun {
    fn calls(&self) -> usize {
        2 * self.steps.timesteps.len() - 1
    }

    fn call(&self, i: usize) -> Call {
        let i = i.div_ceil(2);
        let sigma = self.steps.sigmas[i];
        let scale = 1.0 / sigma.hypot(1.0);
        let level = Level { time: self.steps.timesteps[i], signal: scale, noise: sigma * scale };
        Call { scale, level }
    }

    fn init_scale(&self) -> f64 {
        self.steps.sigmas[0]
    }

    fn step(&mut self, i: usize, clean: &[f64], latents: &mut [f32], _noise: &[f32]) {
        let sigmas = &self.steps.sigmas;
        let here = sigmas[i.div_ceil(2)];
        let x: Vec<f64> = latents.iter().copied().map(f64::from).collect();
        let slope: Vec<f64> = x.iter().zip(clean).map(|(x, clean)| (x - clean) / here).collect();
        let step = i / 2;
        let way = sigmas[step + 1] - sigmas[step];
        let (from, slopes) = match self.began.take() {
            None => {
                self.began = Some((x.clone(), slope.clone()));
                (x, slope)
            }
            Some((x, first)) => {
                (x, first.iter().zip(slope).map(|(a, b)| 0.5 * (a + b)).collect::<Vec<_>>())
            }
        };
        for ((out, x), slope) in latents.iter_mut().zip(from).zip(slopes) {
            *out = (x + way * slope) as f32;
        }
    }
}

/// Latents of one value drawn by a denoiser that knows the answer: data of N(`mean`, `spread`²), whose best
/// prediction is E[x₀ | x].
fn drawn(kind: SamplerKind, steps: usize) -> f64 {
    let (mean, spread) = (0.3, 0.5);
    let schedule = NoiseSchedule::stable_diffusion();
    let mut sampler = kind.sampler(&schedule, steps).unwrap();
    let mut latents = [(0.8 * sampler.init_scale()) as f32];
    let variance = spread * spread;
    for i in 0..sampler.calls() {
        let Call { scale, level } = sampler.call(i);
        let x = scale * f64::from(latents[0]);
        let (a, s) = (level.signal, level.noise);
        let clean = mean + a * variance / (a * a * variance + s * s) * (x - a * mean);
        sampler.step(i, &[clean], &mut latents, &[0.0]);
    }
    f64::from(latents[0])
}

/// The probability flow leads a normal of the noise to the same normal of the data: 0.3 + 0.5 · 0.8. Not quite,
/// because the schedule's last timestep still has some signal.
#[test]
fn every_sampler_without_noise_goes_to_the_same_picture() {
    let heun = SamplerKind::new(HEUN);
    let all = [SAMPLERS, &[heun]].concat();
    for kind in all.into_iter().filter(|kind| !kind.stochastic) {
        let found = drawn(kind, 400);
        assert!((found - 0.7).abs() < 0.03, "{kind:?}: {found}");
    }
    // What 20 steps are off, against many: the second order pays.
    let off = |kind| (drawn(kind, 20) - drawn(kind, 400)).abs();
    assert!(off(heun) < 0.5 * off(euler::KIND), "{}, {}", off(heun), off(euler::KIND));
}

/// What an entry says is all there is to say: names, labels and classes are told apart, and the settings it
/// refuses are known.
#[test]
fn entries_are_told_apart() {
    let all = [SAMPLERS, &[SamplerKind::new(HEUN)]].concat();
    for (i, kind) in all.iter().enumerate() {
        for other in &all[..i] {
            assert_ne!(kind.name, other.name);
            assert_ne!(kind.label, other.label);
        }
        let class = format!("{}Scheduler", kind.rules.class);
        let own: Vec<_> = all.iter().filter(|kind| kind.rules.are_of(&class)).collect();
        assert_eq!(own, [kind]);
        for key in kind.rules.refuses {
            assert!(Rules::REFUSED.iter().any(|row| row.0 == *key), "{kind:?}: {key}");
        }
        assert!(!kind.help.is_empty());
    }
    for (key, ..) in Rules::REFUSED {
        assert!(SAMPLERS.iter().any(|kind| kind.rules.refuses.contains(key)), "{key}");
    }
}

#[test]
fn names_are_read_as_written() {
    for kind in SAMPLERS {
        let text = serde_json::to_string(kind).unwrap();
        assert_eq!(text, format!("{:?}", kind.name));
        assert_eq!(serde_json::from_str::<SamplerKind>(&text).unwrap(), *kind);
    }
    let error = serde_json::from_str::<SamplerKind>("\"magic\"").unwrap_err().to_string();
    assert!(
        error.contains(
            "unknown variant `magic`, expected one of `ddim`, `euler`, `euler-a`, `dpm++2m`"
        ),
        "{error}"
    );
    assert_eq!(SamplerKind::default(), ddim::KIND);
}

#[test]
fn files_say_what_they_were_made_for() {
    let of = |text: &str| made_for(&NoiseSchedule::from_json(&format!("{{{text}}}")).unwrap());
    for (class, expected) in [
        ("DDIMScheduler", MadeFor::Any),
        ("EulerDiscreteScheduler", MadeFor::Any),
        ("EulerAncestralDiscreteScheduler", MadeFor::Any),
        ("DPMSolverMultistepScheduler", MadeFor::Any),
        ("DDIMParallelScheduler", MadeFor::Solver),
        ("DPMSolverSDEScheduler", MadeFor::Solver),
        ("LCMScheduler", MadeFor::FewSteps(None)),
        ("MyScheduler", MadeFor::Unknown),
    ] {
        assert_eq!(of(&format!(r#""_class_name":"{class}""#)), expected, "{class}");
    }
    let turbo = r#""_class_name":"EulerDiscreteScheduler","timestep_spacing":"trailing""#;
    assert_eq!(of(turbo), MadeFor::FewSteps(Some(euler::KIND)));
    assert_eq!(of(&turbo.replace("EulerDiscrete", "DDIM")), MadeFor::Any);
}

/// The page on models lists every sampler.
#[test]
fn the_documents_list_every_sampler() {
    let page = include_str!("../../../../docs/models.md");
    for kind in SAMPLERS {
        assert!(page.contains(&format!("`{}`", kind.name)), "docs/models.md lacks `{}`", kind.name);
    }
}
