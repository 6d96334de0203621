use super::*;
use crate::sampler::ddim::Ddim;
use crate::sampler::{Sampler, advance};
use crate::schedule::NoiseSchedule;

/// Flow matching (Lipman et al. 2022; Liu et al. 2022): x_σ = (1−σ) x₀ + σ ε and v = ε − x₀. The form in which a third
/// kind of process joins the two of the models with betas.
#[derive(Debug)]
struct Flow(Vec<Level>);

impl Flow {
    /// Levels σ = i/n, from 1/n to 1, shifted towards noise as Stable Diffusion 3 does (Esser et al. 2024).
    fn new(n: usize, shift: f64) -> Self {
        let sigma = |i: usize| i as f64 / n as f64;
        Self(
            (1..=n)
                .map(|i| Self::at(shift * sigma(i) / (1.0 + (shift - 1.0) * sigma(i))))
                .collect(),
        )
    }

    fn at(sigma: f64) -> Level {
        Level { time: 1000.0 * sigma, signal: 1.0 - sigma, noise: sigma }
    }
}

impl Process for Flow {
    fn levels(&self) -> usize {
        self.0.len()
    }

    fn level(&self, timestep: usize) -> Level {
        at(&self.0, timestep)
    }

    fn target(&self, _level: Level, clean: &[f32], noise: &[f32], out: &mut Vec<f32>) {
        out.extend(clean.iter().zip(noise).map(|(x, e)| e - x));
    }

    fn clean(&self, level: Level, x: f64, output: f64) -> f64 {
        (x - level.noise * output) / (level.signal + level.noise)
    }

    fn linear(&self, level: Level) -> [f64; 2] {
        let sum = level.signal + level.noise;
        [1.0 / sum, -level.noise / sum]
    }
}

fn processes() -> Vec<Box<dyn Process>> {
    let mut schedule = NoiseSchedule::stable_diffusion();
    let epsilon = schedule.process();
    schedule.prediction_type = PredictionType::VPrediction;
    vec![epsilon, schedule.process(), Box::new(Flow::new(1000, 3.0))]
}

const CLEAN: [f32; 3] = [0.7, -1.1, 0.2];
const NOISE: [f32; 3] = [-0.4, 0.9, 1.6];

/// The target, taken for an output, means the clean latents that it was made from.
#[test]
fn targets_mean_the_clean_latents() {
    for process in processes() {
        assert_eq!(process.levels(), 1000);
        for t in [0, 1, 250, 700, 998] {
            let level = process.level(t);
            let (mut x, mut target) = (Vec::new(), Vec::new());
            process.noised(level, &CLEAN, &NOISE, &mut x);
            process.target(level, &CLEAN, &NOISE, &mut target);
            let [of_x, of_output] = process.linear(level);
            for (i, (x, out)) in x.iter().zip(&target).enumerate() {
                let (x, out) = (f64::from(*x), f64::from(*out));
                let clean = process.clean(level, x, out);
                let tolerance = 1e-6 / level.signal;
                assert!((clean - f64::from(CLEAN[i])).abs() < tolerance, "{process:?} {t}");
                let noise = level.noise_in(x, clean);
                assert!((noise - f64::from(NOISE[i])).abs() < 1e-6 / level.noise);
                assert!((of_x * x + of_output * out - clean).abs() < 1e-12 / level.signal);
            }
        }
        assert_eq!(process.level(1_000_000), process.level(999));
    }
}

/// min(SNR, γ) is the weight on x₀ whatever is predicted.
#[test]
fn min_snr_weighs_clean_latents_alike() {
    for process in processes() {
        for t in [0, 1, 250, 700, 998] {
            let level = process.level(t);
            let [_, of_output] = process.linear(level);
            let on_clean = f64::from(process.min_snr(level, 5.0)) / of_output.powi(2);
            let expected = level.snr().min(5.0);
            assert!((on_clean / expected - 1.0).abs() < 1e-6, "{process:?} {t}: {on_clean}");
        }
    }
    let pure = Level::of_alpha(999.0, 0.0);
    let [epsilon, v, _] = &processes()[..] else { unreachable!() };
    assert_eq!((epsilon.min_snr(pure, 5.0), v.min_snr(pure, 5.0)), (1.0, 0.0));
    assert!(!epsilon.tells_clean(pure) && v.tells_clean(pure));
}

/// A sampler draws with a process that it does not know: DDIM between levels of flow matching is Euler along its
/// velocity (Esser et al. 2024).
#[test]
fn flow_matching_is_drawn_by_the_samplers_there_are() {
    let flow = Flow::new(8, 3.0);
    let mut levels: Vec<Level> = (0..8).rev().map(|t| flow.level(t)).collect();
    levels.push(Flow::at(0.0));
    let mut sampler = Ddim::over(&levels);
    let mut latents = NOISE.to_vec();
    let mut expected = NOISE.map(f64::from);
    for i in 0..sampler.calls() {
        let level = sampler.input(i).level;
        let output: Vec<f32> =
            latents.iter().map(|x| 0.3 * x + (level.time / 1000.0) as f32).collect();
        for (x, out) in expected.iter_mut().zip(&output) {
            *x += (levels[i + 1].noise - level.noise) * f64::from(*out);
        }
        advance(&mut sampler, &flow, i, &output, &mut latents, &[]);
        for (x, expected) in latents.iter().zip(expected) {
            assert!((f64::from(*x) - expected).abs() < 1e-6);
        }
    }
    assert_eq!(levels[0].time, 1000.0);
}

#[test]
fn min_snr_is_the_paper_s_at_every_signal() {
    let of = |kind: PredictionType, alpha: f64| {
        let level = Level::of_alpha(0.0, alpha);
        kind.over(vec![level]).min_snr(level, 5.0)
    };
    use PredictionType::{Epsilon, VPrediction};
    // ᾱ = 0.5: SNR 1; ᾱ = 0.95: SNR 19.
    assert_eq!(of(Epsilon, 0.5), 1.0);
    assert_eq!(of(VPrediction, 0.5), 0.5);
    assert!((of(Epsilon, 0.95) - 5.0 / 19.0).abs() < 1e-6);
    assert!((of(VPrediction, 0.95) - 5.0 / 20.0).abs() < 1e-6);
    // No signal, and no noise.
    assert_eq!((of(Epsilon, 0.0), of(VPrediction, 0.0)), (1.0, 0.0));
    assert_eq!((of(Epsilon, 1.0), of(VPrediction, 1.0)), (0.0, 0.0));
}
