//! The door to a family of denoisers: what everything above needs of a network, whatever it is inside.
//!
//! A family is one folder, which implements [`Network`] for its network, and one line of `families!`.

use burn::module::Module;
use burn::tensor::{Gradients, Tensor};
pub use craft_nn::unet_blocks::{Backward, Kept};

use crate::condition::Condition;

/// What a denoiser is asked: latents `[B, C, h, w]` at `times` (length B) under a condition of `k·B` rows.
#[derive(Clone, Debug)]
pub struct Input<'a> {
    /// Noisy latents, scaled as the network expects them.
    pub latents: Tensor<4>,
    /// What the network is told of the noise, one number a sample: a timestep, or σ.
    pub times: &'a [f32],
    /// Its text, and what else the family takes.
    pub condition: &'a Condition,
}

/// A family's network.
pub trait Network: Module {
    /// The prediction `[k·B, C, h, w]`; with k = 2, row `B + i` is that of sample `i` under another text.
    fn predict(&self, input: Input<'_>) -> Tensor<4>;

    /// Loss and gradients with block-wise recomputation: the results of [`Self::predict`] and one backward pass, with
    /// less memory. `take` is given the gradients of one block's parameters at a time; `wants_text` asks for those of
    /// the condition too.
    fn backward_by_block(
        &self,
        input: Input<'_>,
        wants_text: bool,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
        take: &mut dyn FnMut(Gradients),
    ) -> Backward;

    /// Values that a training pass keeps for one picture with latents of `height` by `width`.
    fn kept_values(&self, height: usize, width: usize) -> Kept;
}

macro_rules! families {
    ($($(#[$about:meta])* $family:ident($network:ty)),* $(,)?) => {
        /// A denoiser of any family. Clones share its weights; names of parameters are those of the family's network.
        #[derive(Module, Debug)]
        pub enum Denoiser {
            $($(#[$about])* $family($network)),*
        }

        $(impl From<$network> for Denoiser {
            fn from(network: $network) -> Self {
                Self::$family(network)
            }
        })*

        impl Denoiser {
            /// [`Network::predict`].
            pub fn predict(&self, input: Input<'_>) -> Tensor<4> {
                match self {
                    $(Self::$family(network) => Network::predict(network, input)),*
                }
            }

            /// [`Network::backward_by_block`].
            pub fn backward_by_block(
                &self,
                input: Input<'_>,
                wants_text: bool,
                loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
                take: &mut dyn FnMut(Gradients),
            ) -> Backward {
                match self {
                    $(Self::$family(network) => {
                        Network::backward_by_block(network, input, wants_text, loss, take)
                    }),*
                }
            }

            /// [`Network::kept_values`].
            pub fn kept_values(&self, height: usize, width: usize) -> Kept {
                match self {
                    $(Self::$family(network) => Network::kept_values(network, height, width)),*
                }
            }
        }
    };
}

families! {
    /// The UNet of Stable Diffusion 1 and 2 and SDXL.
    StableDiffusion(crate::sd::UNet),
}
