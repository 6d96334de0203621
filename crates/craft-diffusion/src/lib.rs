//! craft-diffusion
