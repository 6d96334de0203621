//! A sampler's entry in the table, and the choice of one by name.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{SAMPLERS, Sampler};
use crate::schedule::{NoiseSchedule, Rules, ScheduleError};

/// A sampler for one picture, if the schedule allows for it.
pub type Made = Result<Box<dyn Sampler>, ScheduleError>;

/// All that the rest of the program knows of a sampler.
pub struct Entry {
    /// The name in recipes and on the command line.
    pub name: &'static str,
    /// The name in pictures' parameters, as AUTOMATIC1111's web UI has it.
    pub label: &'static str,
    /// What it is, in a few words, for help texts.
    pub help: &'static str,
    /// Whether every step adds noise.
    pub stochastic: bool,
    /// Whether distilled models of few steps (turbo) come with its class.
    pub turbo: bool,
    /// The class of diffusers whose settings it shares, and how that class places its steps.
    pub rules: Rules,
    /// A sampler of so many steps for one picture.
    ///
    /// Fails when the schedule has no such number of steps, or asks for what the sampler cannot do.
    pub new: fn(&NoiseSchedule, usize) -> Made,
}

/// The choice of a sampler.
#[derive(Clone, Copy)]
pub struct SamplerKind(&'static Entry);

impl SamplerKind {
    /// The sampler of an entry.
    pub const fn new(entry: &'static Entry) -> Self {
        Self(entry)
    }

    /// By name.
    pub fn named(name: &str) -> Option<Self> {
        SAMPLERS.iter().copied().find(|kind| kind.name == name)
    }

    /// Names of all samplers.
    pub const NAMES: &'static [&'static str] = &{
        let mut names = [""; SAMPLERS.len()];
        let mut i = 0;
        while i < names.len() {
            names[i] = SAMPLERS[i].0.name;
            i += 1;
        }
        names
    };

    /// Names of the samplers that can place their steps as Karras et al. have it.
    pub fn with_karras() -> Vec<&'static str> {
        SAMPLERS.iter().filter(|kind| kind.karras()).map(|kind| kind.name).collect()
    }

    /// Whether it can place its steps as Karras et al. have it.
    pub fn karras(self) -> bool {
        self.rules.sigma_spacing.is_some()
    }

    /// A sampler for one picture.
    ///
    /// # Errors
    /// When the schedule has no such number of steps, or asks for what this sampler cannot do.
    pub fn sampler(self, schedule: &NoiseSchedule, steps: usize) -> Made {
        (self.0.new)(schedule, steps)
    }
}

impl Deref for SamplerKind {
    type Target = Entry;

    fn deref(&self) -> &Entry {
        self.0
    }
}

impl Default for SamplerKind {
    fn default() -> Self {
        SAMPLERS[0]
    }
}

impl PartialEq for SamplerKind {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for SamplerKind {}

impl fmt::Debug for SamplerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Serialize for SamplerKind {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.serialize_str(self.name)
    }
}

impl<'de> Deserialize<'de> for SamplerKind {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let name = String::deserialize(value)?;
        Self::named(&name).ok_or_else(|| de::Error::unknown_variant(&name, Self::NAMES))
    }
}
