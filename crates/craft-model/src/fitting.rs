//! Whether the parts of a model go together, from their configs, before any weights are read.

use crate::sd::Config as UNetConfig;
use craft_nn::clip::ClipTextConfig;
use craft_nn::vae::VaeConfig;

/// Channels of a picture.
const COLOURS: usize = 3;
/// Numbers beside the text that SDXL's denoiser takes: two sizes and a crop.
const TIME_IDS: usize = 6;

/// The configs of a model.
pub(crate) struct Parts<'a> {
    pub(crate) unet: &'a UNetConfig,
    pub(crate) vae: &'a VaeConfig,
    pub(crate) text: &'a ClipTextConfig,
    /// SDXL's second text encoder, and the width of its pooled states.
    pub(crate) second: Option<(&'a ClipTextConfig, usize)>,
}

impl Parts<'_> {
    /// Refuses parts that cannot draw from a text together.
    ///
    /// # Errors
    /// The component whose config is at fault, and what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        self.channels()?;
        self.context()?;
        self.added()
    }

    fn channels(&self) -> Result<(), (&'static str, String)> {
        let latents = self.vae.latent_channels;
        if let Some(purpose) = self.unet.other_purpose(latents) {
            let (input, output) = (self.unet.in_channels, self.unet.out_channels);
            return Err((
                "unet",
                format!(
                    "in_channels is {input} and out_channels {output}, over latents of {latents} channels (vae/config.json): {purpose}; expected {latents} and {latents}: use the text-to-image model that it was made from"
                ),
            ));
        }
        if [self.vae.in_channels, self.vae.out_channels] != [COLOURS; 2] {
            return Err((
                "vae",
                format!(
                    "in_channels is {} and out_channels {}; expected {COLOURS} and {COLOURS}: use an autoencoder of colour pictures",
                    self.vae.in_channels, self.vae.out_channels
                ),
            ));
        }
        Ok(())
    }

    fn context(&self) -> Result<(), (&'static str, String)> {
        let first = self.text.hidden_size;
        let (width, told) = match self.second {
            None => (first, format!("{first}")),
            Some((second, _)) => {
                let second = second.hidden_size;
                (first + second, format!("{first} and {second}, side by side {}", first + second))
            }
        };
        let wrong = self.unet.contexts().find(|context| *context != width);
        match wrong {
            None => Ok(()),
            Some(context) => Err((
                "unet",
                format!(
                    "cross_attention_dim is {context}, but the text gives states of width {told} (hidden_size); expected them equal: take denoiser and text encoder from one model"
                ),
            )),
        }
    }

    fn added(&self) -> Result<(), (&'static str, String)> {
        let kind = self.unet.addition_embed_type.as_deref();
        let (pooled, kind) = match (self.second, kind) {
            (None, None) => return Ok(()),
            (None, Some(kind)) => {
                return Err((
                    "unet",
                    format!(
                        "addition_embed_type is `{kind}`, but model_index.json says StableDiffusionPipeline; expected StableDiffusionXLPipeline, or a UNet without it"
                    ),
                ));
            }
            (Some((_, pooled)), kind) => (pooled, kind),
        };
        let ids = self.unet.addition_time_embed_dim.unwrap_or(0);
        let wanted = pooled + TIME_IDS * ids;
        match self.unet.projection_class_embeddings_input_dim.filter(|_| kind.is_some()) {
            Some(width) if width == wanted => Ok(()),
            Some(width) => Err((
                "unet",
                format!(
                    "projection_class_embeddings_input_dim is {width}, but the pooled text has width {pooled} and the {TIME_IDS} sizes {ids} each, together {wanted}; expected them equal: take denoiser and second text encoder from one model"
                ),
            )),
            None => Err((
                "unet",
                "addition_embed_type is missing, but model_index.json says StableDiffusionXLPipeline; expected `text_time`: use SDXL's denoiser".to_owned(),
            )),
        }
    }
}
