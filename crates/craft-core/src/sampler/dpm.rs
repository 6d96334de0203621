//! DPM-Solver++ of order 2, multistep (Lu et al. 2022, algorithm 2;
//! `diffusers/schedulers/scheduling_dpmsolver_multistep.py` with `dpmsolver++`).

use super::{Call, Entry, Sampler, SamplerKind};
use crate::process::Level;
use crate::schedule::{
    Ends, FinalSigma, NoiseSchedule, Rules, SamplingOptions, ScheduleError, SolverType, Steps,
};

/// DPM++ 2M.
pub const KIND: SamplerKind = SamplerKind::new(ENTRY);

const ENTRY: &Entry = &Entry {
    name: "dpm++2m",
    label: "DPM++ 2M",
    help: "deterministic, of second order: good in fewer steps",
    stochastic: false,
    turbo: false,
    rules: Rules {
        sigma_spacing: Some(Ends::Schedule),
        final_sigma: true,
        one_more: true,
        refuses: &[
            "thresholding",
            "use_beta_sigmas",
            // diffusers cuts its fractional timesteps to whole ones, where rounding errors decide.
            "use_exponential_sigmas",
            "use_lu_lambdas",
            "use_flow_sigmas",
            "use_dynamic_shifting",
            "algorithm_type",
            "variance_type",
            "solver_order",
        ],
        ..Rules::of("DPMSolverMultistep")
    },
    new: |schedule, steps| Ok(Box::new(DpmPlusPlus2M::new(schedule, steps)?)),
};

/// The DPM++ 2M sampler.
#[derive(Clone, Debug)]
pub struct DpmPlusPlus2M {
    steps: Steps,
    options: SamplingOptions,
    previous: Option<Vec<f64>>,
}

impl DpmPlusPlus2M {
    /// The sampler of `steps` steps over a schedule.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what this sampler cannot do.
    pub fn new(schedule: &NoiseSchedule, steps: usize) -> Result<Self, ScheduleError> {
        let steps = schedule.steps(&KIND.rules, steps)?;
        Ok(Self { steps, options: schedule.sampling.clone(), previous: None })
    }

    /// (α, σ, λ) of the variance-preserving form.
    fn at(&self, i: usize) -> (f64, f64, f64) {
        let sigma = self.steps.sigmas[i];
        let alpha = 1.0 / sigma.hypot(1.0);
        (alpha, sigma * alpha, -sigma.ln())
    }

    /// Whether step `i` looks at the one before it.
    fn second_order(&self, i: usize) -> bool {
        let n = self.steps.timesteps.len();
        let lowered = self.options.euler_at_final
            || (self.options.lower_order_final && n < 15)
            || self.options.final_sigma == FinalSigma::Zero;
        self.options.solver_order == 2 && i > 0 && !(i + 1 == n && lowered)
    }
}

impl Sampler for DpmPlusPlus2M {
    fn calls(&self) -> usize {
        self.steps.timesteps.len()
    }

    fn call(&self, i: usize) -> Call {
        let (alpha, _, _) = self.at(i);
        Call { scale: 1.0, level: Level::of_alpha(self.steps.timesteps[i], alpha * alpha) }
    }

    fn step(&mut self, i: usize, clean: &[f64], latents: &mut [f32], _noise: &[f32]) {
        let (_, sigma_s, lambda_s) = self.at(i);
        let (alpha_t, sigma_t, lambda_t) = self.at(i + 1);
        let ratio = sigma_t / sigma_s;
        let h = lambda_t - lambda_s;
        let factor = alpha_t * (-h).exp_m1();
        let second = self.previous.take().filter(|_| self.second_order(i)).map(|previous| {
            let (_, _, lambda_p) = self.at(i - 1);
            let slope = h / (lambda_s - lambda_p);
            let weight = match self.options.solver_type {
                SolverType::Midpoint => -0.5 * factor,
                SolverType::Heun => factor / h + alpha_t,
            };
            (previous, weight * slope)
        });
        for (j, (x, &d0)) in latents.iter_mut().zip(clean).enumerate() {
            let mut value = ratio * f64::from(*x) - factor * d0;
            if let Some((previous, weight)) = &second {
                value += weight * (d0 - previous[j]);
            }
            *x = value as f32;
        }
        self.previous = Some(clean.to_vec());
    }
}
