//! Networks of latent diffusion and of reward models on Burn: UNet, VAE, CLIP, their weight files'
//! names, and the operations that they stand on. Nothing here knows about CRAFT.

pub mod init;
pub mod layers;
pub mod ops;
pub mod weights;
pub mod config;
pub mod resnet;
pub mod timestep;
pub mod transformer;
pub mod unet;
pub mod unet_config;
pub mod vae;
pub mod clip;
pub mod open_clip;
pub mod tokenizer;
