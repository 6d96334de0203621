//! At which timesteps and σ a sampler asks the network.

use super::{
    BetaSchedule, Ends, FinalSigma, NoiseSchedule, Rules, ScheduleError, SigmaSpacing,
    TimestepSpacing,
};

/// The way from noise to image.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// What the network is told, one per step. Whole numbers, except for Euler with linspace, Karras or
    /// exponential spacing.
    pub timesteps: Vec<f64>,
    /// σ of the variance-exploding form at each step, and behind the last one.
    pub sigmas: Vec<f64>,
}

impl NoiseSchedule {
    /// The spacing that a sampler uses with this schedule.
    pub fn spacing(&self, rules: &Rules) -> TimestepSpacing {
        self.timestep_spacing.unwrap_or(rules.default_spacing)
    }

    /// σ at a fractional timestep by linear interpolation, the ends held.
    pub fn sigma_at(&self, timestep: f64) -> f64 {
        interpolate(&self.sigmas(), timestep)
    }

    /// Timesteps and σ of `steps` steps, as the `set_timesteps` of diffusers' class places them.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or the configuration asks this sampler for
    /// something that it cannot do.
    pub fn steps(&self, rules: &Rules, steps: usize) -> Result<Steps, ScheduleError> {
        self.sampling.check(rules)?;
        if rules.exact_last {
            let process = self.process();
            if !process.tells_clean(process.level(self.num_train_timesteps())) {
                return Err(ScheduleError::ZeroSnrEpsilon);
            }
        }
        let mut timesteps = self.timesteps(rules, steps)?;
        let table = self.sigmas();
        let mut sigmas: Vec<f64> = timesteps.iter().map(|&t| interpolate(&table, t)).collect();
        let spacing = self.sampling.sigma_spacing;
        if let (Some(ends), true) = (rules.sigma_spacing, spacing != SigmaSpacing::Timesteps) {
            let ends = match ends {
                Ends::Schedule => (table[table.len() - 1], table[0]),
                Ends::Timesteps => (sigmas[0], sigmas[steps - 1]),
            };
            let from = self.sampling.sigma_max.unwrap_or(ends.0);
            let to = self.sampling.sigma_min.unwrap_or(ends.1);
            sigmas = respace(spacing, from, to, steps);
            let logs: Vec<f64> = table.iter().map(|s| s.ln()).collect();
            timesteps = sigmas.iter().map(|s| timestep_of(s.ln(), &logs)).collect();
            if !rules.fractional {
                timesteps.iter_mut().for_each(|t| *t = self.whole(*t));
            }
        }
        if rules.continuous && self.sampling.continuous_timesteps {
            timesteps = sigmas.iter().map(|s| 0.25 * s.ln()).collect();
        }
        if rules.fractional {
            timesteps.iter_mut().for_each(|t| *t = f64::from(*t as f32));
        }
        let last = match self.sampling.final_sigma {
            FinalSigma::SigmaMin if rules.final_sigma => table[0],
            _ => 0.0,
        };
        sigmas.push(last);
        Ok(Steps { timesteps, sigmas })
    }

    /// Whole timesteps of other spacings: rounded, or cut where diffusers only casts.
    fn whole(&self, timestep: f64) -> f64 {
        match self.beta_schedule {
            BetaSchedule::SquaredcosCapV2 => timestep.trunc(),
            _ => timestep.round_ties_even(),
        }
    }

    /// Timesteps by the spacing alone, from noise to image. Always `steps` of them; repeated ones are
    /// possible where `steps` is near T.
    fn timesteps(&self, rules: &Rules, steps: usize) -> Result<Vec<f64>, ScheduleError> {
        let total = self.num_train_timesteps();
        let spacing = self.spacing(rules);
        let one_more = rules.one_more;
        let end = if one_more { self.unclipped() } else { total };
        let most = match (one_more, spacing) {
            (true, TimestepSpacing::Leading) => end.saturating_sub(1).max(1),
            _ => end,
        };
        if steps == 0 || steps > most {
            return Err(ScheduleError::Steps { steps, most, num_train_timesteps: total });
        }
        let last = (end - 1) as f64;
        Ok(match spacing {
            // DPM-Solver++ places one more point and leaves out the one at the image.
            TimestepSpacing::Linspace => {
                let points = if one_more { steps + 1 } else { steps };
                let stride = if points > 1 { last / (points - 1) as f64 } else { 0.0 };
                let place = |i: usize| {
                    if i + 1 == points && points > 1 { last } else { i as f64 * stride }
                };
                let placed = (points - steps..points).rev().map(place);
                if rules.fractional {
                    placed.collect()
                } else {
                    placed.map(f64::round_ties_even).collect()
                }
            }
            TimestepSpacing::Leading => {
                let (first, offset) = (usize::from(one_more), self.offset(rules));
                let stride = (end / (steps + first)).max(1);
                (first..steps + first)
                    .rev()
                    .map(|i| ((i * stride + offset) as f64).min((total - 1) as f64))
                    .collect()
            }
            TimestepSpacing::Trailing => {
                let stride = total as f64 / steps as f64;
                (0..steps)
                    .map(|i| (end as f64 - i as f64 * stride).round_ties_even() - 1.0)
                    .map(|t| t.max(0.0))
                    .collect()
            }
        })
    }

    /// How many timesteps have a log(α/σ) of at least `lambda_min_clipped`.
    fn unclipped(&self) -> usize {
        let lambda = |sigma: &f64| -sigma.ln();
        let kept = |sigma: &&f64| lambda(sigma) >= self.sampling.lambda_min_clipped;
        self.sigmas().iter().filter(kept).count().max(1)
    }
}

fn respace(spacing: SigmaSpacing, from: f64, to: f64, steps: usize) -> Vec<f64> {
    const RHO: f64 = 7.0;
    let last = (steps.max(2) - 1) as f64;
    let places = (0..steps).map(|i| i as f64 / last);
    if spacing == SigmaSpacing::Karras {
        let (from, to) = (from.powf(1.0 / RHO), to.powf(1.0 / RHO));
        places.map(|at| (from + at * (to - from)).powf(RHO)).collect()
    } else {
        let (from, to) = (from.ln(), to.ln());
        places.map(|at| (from + at * (to - from)).exp()).collect()
    }
}

/// The fractional timestep whose log σ, interpolated, is this; the ends held.
fn timestep_of(log_sigma: f64, logs: &[f64]) -> f64 {
    if logs.len() < 2 {
        return 0.0;
    }
    let low = logs.partition_point(|l| *l <= log_sigma).saturating_sub(1).min(logs.len() - 2);
    let weight = (log_sigma - logs[low]) / (logs[low + 1] - logs[low]);
    low as f64 + weight.clamp(0.0, 1.0)
}

fn interpolate(values: &[f64], place: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else {
        return 0.0;
    };
    let place = place.clamp(0.0, last as f64);
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    values[low] + (values[high] - values[low]) * (place - low as f64)
}
