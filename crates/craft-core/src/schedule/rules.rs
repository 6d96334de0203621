//! How a sampler places its steps: the rules of the `set_timesteps` of a diffusers class, as data.

use super::{Class, TimestepSpacing};

/// Between which σ Karras and exponential spacing go where the configuration does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// Those of the whole schedule.
    Schedule,
    /// Those of the sampler's own timesteps.
    Timesteps,
}

/// How a sampler places its steps, and which settings of a scheduler's file it reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// How the name of the diffusers class begins whose settings it shares, such as `DDIM`.
    pub class: &'static str,
    /// The spacing that the class takes where the configuration has none.
    pub default_spacing: TimestepSpacing,
    /// Whether timesteps lie between whole ones (linspace), in f32.
    pub fractional: bool,
    /// Whether σ can be spaced as Karras et al. have it, and between which ends.
    pub sigma_spacing: Option<Ends>,
    /// Whether the network may be told ln σ / 4 (`timestep_type`).
    pub continuous: bool,
    /// Whether σ behind the last step is read (`final_sigmas_type`).
    pub final_sigma: bool,
    /// Whether one more step is placed, and the one at the picture left out; timesteps are whole, and those below
    /// `lambda_min_clipped` are left out.
    pub one_more: bool,
    /// Whether the last timestep of training is taken as it is, so that with zero terminal SNR it has no signal at
    /// all. Others take ᾱ = 2⁻²⁴ there.
    pub exact_last: bool,
    /// Settings that the class reads and the sampler does not follow, by the keys of
    /// [`Rules::REFUSED`](Self::REFUSED).
    pub refuses: &'static [&'static str],
}

impl Rules {
    /// The rules of a class that reads nothing but timesteps, with linspace spacing.
    pub const fn of(class: &'static str) -> Self {
        Self {
            class,
            default_spacing: TimestepSpacing::Linspace,
            fractional: false,
            sigma_spacing: None,
            continuous: false,
            final_sigma: false,
            one_more: false,
            exact_last: false,
            refuses: &[],
        }
    }

    /// Whether a scheduler class of that name is the sampler's own. Other classes may begin alike.
    pub fn are_of(&self, name: &str) -> bool {
        name.strip_prefix(self.class)
            .is_some_and(|rest| rest == "Scheduler" || Class::of(name) == Class::Unknown)
    }
}
