//! Diffusion without a disk: samplers, objectives, the optimizer, and the guard against NaN.

pub mod ddim;
pub mod dpm;
pub mod euler;
pub mod guard;
pub mod objective;
pub mod optimizer;
pub mod sampler;
pub mod schedule;
