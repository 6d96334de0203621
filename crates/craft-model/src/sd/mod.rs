//! The family of Stable Diffusion 1 and 2: a UNet under the states of one CLIP text encoder.
//!
//! SDXL's denoiser is the same network with further conditions; what is its own is in [`crate::sdxl`].

mod network;

use std::path::Path;

use burn::tensor::Device;
use craft_core::recipe::Precision;
use craft_nn::init::Init;

pub use craft_nn::unet::UNet2DConditionModel as UNet;
pub use craft_nn::unet_config::UNetConfig as Config;

/// The network's class in diffusers.
pub const CLASS: &str = "UNet2DConditionModel";

use crate::component;
use crate::error::Result;

/// Loads a UNet from a component folder.
///
/// # Errors
/// When a file is missing or torn, the config asks for what is not supported, or weights do not fit it.
pub fn load(dir: &Path, device: &Device) -> Result<(UNet, Config)> {
    load_as(dir, device, Precision::F32)
}

/// [`load`] with weights of a dtype. Rounded ones are never all in memory as f32.
///
/// # Errors
/// As [`load`].
pub fn load_as(dir: &Path, device: &Device, precision: Precision) -> Result<(UNet, Config)> {
    component::fill(dir, precision, |c| UNet::new(&mut Init::zeros(device), c))
}
