//! Diffusion without a disk: objectives, the optimizer, and the guard against NaN.

pub mod awm;
pub mod ddpo;
pub mod dpo;
pub mod guard;
pub mod kto;
pub mod lair;
pub mod mapo;
pub mod nft;
pub mod objective;
pub mod optimizer;
pub mod schedule;
pub mod spo;
