//! Networks of latent diffusion and of reward models on Burn: UNet, VAE, CLIP, their weight files'
//! names, and the operations that they stand on. Nothing here knows about CRAFT.

pub mod blip;
pub mod bounds;
pub mod clip;
pub mod config;
pub mod init;
pub mod layers;
pub mod ldm;
pub mod lora;
pub mod mps;
pub mod open_clip;
pub mod ops;
pub mod resnet;
pub mod timestep;
pub mod tokenizer;
pub mod transformer;
pub mod unet;
pub mod unet_blocks;
pub mod unet_config;
pub mod unet_depths;
pub mod vae;
pub mod vae_names;
pub mod vae_tiles;
pub mod weights;
