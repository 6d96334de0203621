//! AutoencoderKL (`diffusers/models/autoencoders/autoencoder_kl.py`, `vae.py`).

use burn::module::Module;
use burn::tensor::Tensor;

use crate::init::Init;
use crate::layers::{Conv2d, GroupNorm};
use crate::ops::{self, Added};
use crate::resnet::{Downsample2D, ResnetBlock2D, Upsample2D};

mod config;

pub use config::{PerSide, VaeConfig};

/// Epsilon of every group norm of the VAE.
const EPS: f64 = 1e-6;

/// Self-attention over the pixels of a feature map, one head.
#[derive(Module, Debug)]
pub struct PixelAttention {
    group_norm: GroupNorm,
    to_q: crate::layers::Linear,
    to_k: crate::layers::Linear,
    to_v: crate::layers::Linear,
    to_out_at_0: crate::layers::Linear,
}

impl PixelAttention {
    fn new(init: &mut Init, channels: usize, groups: usize) -> Self {
        let linear = |init: &mut Init| crate::layers::Linear::new(init, channels, channels, true);
        Self {
            group_norm: GroupNorm::new(init, groups, channels, EPS),
            to_q: linear(init),
            to_k: linear(init),
            to_v: linear(init),
            to_out_at_0: linear(init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, _, height, width] = x.dims();
        let tokens = ops::to_tokens(self.group_norm.forward(x.clone()));
        let q = self.to_q.forward(tokens.clone());
        let k = self.to_k.forward(tokens.clone());
        let v = self.to_v.forward(tokens);
        let y = self.to_out_at_0.forward(ops::attention(q, k, v, 1, false));
        ops::add(ops::from_tokens(y, height, width), x)
    }
}

/// One level of the encoder or of the decoder.
#[derive(Module, Debug)]
pub struct VaeBlock {
    resnets: Vec<ResnetBlock2D>,
    downsamplers: Vec<Downsample2D>,
    upsamplers: Vec<Upsample2D>,
}

/// The middle of encoder and decoder.
#[derive(Module, Debug)]
pub struct VaeMid {
    resnets: Vec<ResnetBlock2D>,
    attentions: Vec<PixelAttention>,
}

impl VaeMid {
    fn new(init: &mut Init, channels: usize, c: &VaeConfig) -> Self {
        let resnet = |init: &mut Init| {
            ResnetBlock2D::new(init, channels, channels, None, c.norm_num_groups, EPS)
        };
        let first = resnet(init);
        let attentions = if c.mid_block_add_attention {
            vec![PixelAttention::new(init, channels, c.norm_num_groups)]
        } else {
            vec![]
        };
        Self { resnets: vec![first, resnet(init)], attentions }
    }

    fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        for (i, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, None);
            if let Some(attention) = self.attentions.get(i) {
                x = attention.forward(x);
            }
        }
        x
    }
}

/// Image to the moments of its latents.
#[derive(Module, Debug)]
pub struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<VaeBlock>,
    mid_block: VaeMid,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Encoder {
    fn new(init: &mut Init, c: &VaeConfig) -> Self {
        let channels = &c.block_out_channels;
        let conv_in = Conv2d::same(init, c.in_channels, channels[0], 3);
        let mut current = channels[0];
        let mut down_blocks = vec![];
        for (level, &out) in channels.iter().enumerate() {
            let mut block = VaeBlock { resnets: vec![], downsamplers: vec![], upsamplers: vec![] };
            for _ in 0..c.layers_per_block {
                let resnet = ResnetBlock2D::new(init, current, out, None, c.norm_num_groups, EPS);
                block.resnets.push(resnet);
                current = out;
            }
            if level + 1 < channels.len() {
                block.downsamplers.push(Downsample2D::asymmetric(init, current));
            }
            down_blocks.push(block);
        }
        Self {
            conv_in,
            down_blocks,
            mid_block: VaeMid::new(init, current, c),
            conv_norm_out: GroupNorm::new(init, c.norm_num_groups, current, EPS),
            conv_out: Conv2d::same(init, current, 2 * c.latent_channels, 3),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.conv_in.forward(x);
        for block in &self.down_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(x, None);
            }
            for down in &block.downsamplers {
                x = down.forward(x);
            }
        }
        let x = self.mid_block.forward(x);
        self.conv_out.after_norm(&self.conv_norm_out, x, Added::Nothing)
    }
}

/// Latents to image.
#[derive(Module, Debug)]
pub struct Decoder {
    conv_in: Conv2d,
    mid_block: VaeMid,
    up_blocks: Vec<VaeBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    fn new(init: &mut Init, c: &VaeConfig) -> Self {
        let channels = &c.block_out_channels;
        let mut current = *channels.last().unwrap_or(&1);
        let conv_in = Conv2d::same(init, c.latent_channels, current, 3);
        let mid_block = VaeMid::new(init, current, c);
        let mut up_blocks = vec![];
        for (level, &out) in channels.iter().enumerate().rev() {
            let mut block = VaeBlock { resnets: vec![], downsamplers: vec![], upsamplers: vec![] };
            for _ in 0..=c.layers_per_block {
                let resnet = ResnetBlock2D::new(init, current, out, None, c.norm_num_groups, EPS);
                block.resnets.push(resnet);
                current = out;
            }
            if level > 0 {
                block.upsamplers.push(Upsample2D::new(init, current));
            }
            up_blocks.push(block);
        }
        Self {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(init, c.norm_num_groups, current, EPS),
            conv_out: Conv2d::same(init, current, c.out_channels, 3),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = self.mid_block.forward(self.conv_in.forward(x));
        for block in &self.up_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(x, None);
            }
            for up in &block.upsamplers {
                x = up.forward(x, None);
            }
        }
        self.conv_out.after_norm(&self.conv_norm_out, x, Added::Nothing)
    }
}

/// The variational autoencoder between images and latents.
#[derive(Module, Debug)]
pub struct AutoencoderKL {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
}

impl AutoencoderKL {
    /// Builds the network that the config describes.
    pub fn new(init: &mut Init, c: &VaeConfig) -> Self {
        let latent = c.latent_channels;
        Self {
            encoder: Encoder::new(init, c),
            decoder: Decoder::new(init, c),
            quant_conv: c.use_quant_conv.then(|| Conv2d::same(init, 2 * latent, 2 * latent, 1)),
            post_quant_conv: c.use_post_quant_conv.then(|| Conv2d::same(init, latent, latent, 1)),
        }
    }

    /// Mean and log-variance `[B, latent, h, w]` (clamped to −30..20) of images `[B, 3, H, W]` in
    /// −1..1; no scaling factor applied.
    pub fn encode(&self, images: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        Self::mean_and_logvar(self.moments(images))
    }

    /// Mean and log-variance as channels of one tensor, not clamped.
    pub(crate) fn moments(&self, images: Tensor<4>) -> Tensor<4> {
        let moments = self.encoder.forward(images);
        match &self.quant_conv {
            Some(conv) => conv.forward(moments),
            None => moments,
        }
    }

    pub(crate) fn mean_and_logvar(moments: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let latent = moments.dims()[1] / 2;
        let mean = moments.clone().narrow(1, 0, latent);
        (mean, moments.narrow(1, latent, latent).clamp(-30.0, 20.0))
    }

    /// Images `[B, 3, H, W]`, about −1..1, of latents `[B, latent, h, w]`; no scaling factor
    /// applied.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        let latents = match &self.post_quant_conv {
            Some(conv) => conv.forward(latents),
            None => latents,
        };
        self.decoder.forward(latents)
    }
}
