//! Diffusion without a disk: samplers, objectives, the optimizer, and the guard against NaN.

pub mod awm;
pub mod ddim;
pub mod ddpo;
pub mod dpm;
pub mod dpo;
pub mod euler;
pub mod guard;
pub mod kto;
pub mod lair;
pub mod mapo;
pub mod nft;
pub mod objective;
pub mod optimizer;
pub mod sampler;
pub mod schedule;
pub mod spo;
