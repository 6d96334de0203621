//! UNet2DConditionModel (`diffusers/models/unets/unet_2d_condition.py`, `unet_2d_blocks.py`).

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};

use crate::init::Init;
use crate::layers::{Conv2d, GroupNorm};
use crate::ops::{self, Act};
use crate::resnet::{Downsample2D, ResnetBlock2D, TimestepEmbedding, Upsample2D};
use crate::timestep;
use crate::transformer::{Transformer2D, TransformerShape};
use crate::unet_config::UNetConfig;
use crate::weights;

/// One level of the way down.
#[derive(Module, Debug)]
pub struct DownBlock {
    pub(crate) resnets: Vec<ResnetBlock2D>,
    pub(crate) attentions: Vec<Transformer2D>,
    pub(crate) downsamplers: Vec<Downsample2D>,
}

/// The middle.
#[derive(Module, Debug)]
pub struct MidBlock {
    pub(crate) resnets: Vec<ResnetBlock2D>,
    pub(crate) attentions: Vec<Transformer2D>,
}

/// One level of the way up.
#[derive(Module, Debug)]
pub struct UpBlock {
    pub(crate) resnets: Vec<ResnetBlock2D>,
    pub(crate) attentions: Vec<Transformer2D>,
    pub(crate) upsamplers: Vec<Upsample2D>,
}

/// SDXL's conditioning on pooled text and image sizes.
#[derive(Clone, Debug)]
pub struct AddedCondition {
    /// Pooled text embedding `[B, P]`.
    pub text_embeds: Tensor<2>,
    /// Original size, crop and target size, `[B][6]`.
    pub time_ids: Vec<Vec<f32>>,
}

/// The denoiser.
#[derive(Module, Debug)]
pub struct UNet2DConditionModel {
    pub(crate) conv_in: Conv2d,
    time_embedding: TimestepEmbedding,
    add_embedding: Option<TimestepEmbedding>,
    pub(crate) down_blocks: Vec<DownBlock>,
    pub(crate) mid_block: Option<MidBlock>,
    pub(crate) up_blocks: Vec<UpBlock>,
    pub(crate) conv_norm_out: GroupNorm,
    pub(crate) conv_out: Conv2d,
    #[module(skip)]
    features: Features,
}

#[derive(Clone, Debug)]
struct Features {
    width: usize,
    flip: bool,
    shift: f64,
    added: usize,
}

impl UNet2DConditionModel {
    /// Builds the network that the config describes.
    pub fn new(init: &mut Init, c: &UNetConfig) -> Self {
        let channels = &c.block_out_channels;
        let time = channels[0] * 4;
        let conv_in = Conv2d::same(init, c.in_channels, channels[0], 3);
        let time_embedding = TimestepEmbedding::new(init, channels[0], time);
        let add_embedding = c
            .projection_class_embeddings_input_dim
            .filter(|_| c.addition_embed_type.is_some())
            .map(|input| TimestepEmbedding::new(init, input, time));
        let mut build = Builder { init, config: c, current: channels[0], skips: vec![channels[0]] };
        let down_blocks = (0..channels.len()).map(|level| build.down(level)).collect();
        let mid_block = c.mid_block_type.as_ref().map(|_| build.middle());
        let up_blocks = (0..channels.len()).map(|up| build.up(up)).collect();
        Self {
            conv_in,
            time_embedding,
            add_embedding,
            down_blocks,
            mid_block,
            up_blocks,
            conv_norm_out: GroupNorm::new(init, c.norm_num_groups, channels[0], c.norm_eps),
            conv_out: Conv2d::same(init, channels[0], c.out_channels, 3),
            features: Features {
                width: channels[0],
                flip: c.flip_sin_to_cos,
                shift: c.freq_shift,
                added: c.addition_time_embed_dim.unwrap_or(0),
            },
        }
    }

    /// Whether a parameter of the timestep's path gets a gradient.
    pub(crate) fn embeds_time_trainably(&self) -> bool {
        weights::is_trainable(&self.time_embedding)
            || self.add_embedding.as_ref().is_some_and(weights::is_trainable)
    }

    /// The timestep embedding after the SiLU that every residual block applies to it.
    pub(crate) fn embed_time(
        &self,
        timesteps: &[f32],
        added: Option<&AddedCondition>,
        like: &Tensor<4>,
    ) -> Tensor<2> {
        let f = &self.features;
        let device = like.device();
        let mut time = self
            .time_embedding
            .forward(timestep::features(timesteps, f.width, f.flip, f.shift, &device));
        if let (Some(embedding), Some(added)) = (&self.add_embedding, added) {
            let batch = timesteps.len();
            let ids: Vec<f32> = added.time_ids.iter().flatten().copied().collect();
            let per_image = ids.len() / batch.max(1);
            let ids = timestep::features(&ids, f.added, f.flip, f.shift, &device)
                .reshape([batch, per_image * f.added]);
            let input = Tensor::cat(vec![added.text_embeds.clone(), ids], 1);
            time = time + embedding.forward(input);
        }
        ops::activation(time, Act::Silu)
    }
}

/// Builds the blocks in the order of computation, which is the order of the random numbers.
struct Builder<'a> {
    init: &'a mut Init,
    config: &'a UNetConfig,
    /// Channels of the features so far.
    current: usize,
    /// Channels of the skips that the way up has not used yet.
    skips: Vec<usize>,
}

impl Builder<'_> {
    fn resnet(&mut self, input: usize, output: usize) -> ResnetBlock2D {
        let c = self.config;
        let time = c.block_out_channels[0] * 4;
        ResnetBlock2D::new(self.init, input, output, Some(time), c.norm_num_groups, c.norm_eps)
    }

    fn shape(&self, level: usize, depth: Option<usize>) -> TransformerShape {
        let c = self.config;
        TransformerShape {
            channels: c.block_out_channels[level],
            heads: c.heads(level).unwrap_or(1),
            layers: depth.unwrap_or(1),
            context: c.context(level).unwrap_or(1),
            groups: c.norm_num_groups,
            linear_projection: c.use_linear_projection,
            only_cross: c.only_cross(level).unwrap_or(false),
        }
    }

    fn down(&mut self, level: usize) -> DownBlock {
        let c = self.config;
        let attend = c.down_block_types[level] == "CrossAttnDownBlock2D";
        let mut block = DownBlock { resnets: vec![], attentions: vec![], downsamplers: vec![] };
        for layer in 0..c.layers(level).unwrap_or(0) {
            let width = c.block_out_channels[level];
            block.resnets.push(self.resnet(self.current, width));
            self.current = width;
            if attend {
                let shape = self.shape(level, c.down_depth(level, layer));
                block.attentions.push(Transformer2D::new(self.init, &shape));
            }
            self.skips.push(self.current);
        }
        if level + 1 < c.block_out_channels.len() {
            block.downsamplers.push(Downsample2D::symmetric(self.init, self.current));
            self.skips.push(self.current);
        }
        block
    }

    fn middle(&mut self) -> MidBlock {
        let c = self.config;
        let attends = c.mid_attends();
        // diffusers' middle looks at the image first, whatever only_cross_attention says.
        let last = c.block_out_channels.len() - 1;
        let shape = TransformerShape { only_cross: false, ..self.shape(last, c.mid_depth()) };
        let resnets = if attends { 2 } else { 1 };
        MidBlock {
            resnets: (0..resnets).map(|_| self.resnet(self.current, self.current)).collect(),
            attentions: if attends { vec![Transformer2D::new(self.init, &shape)] } else { vec![] },
        }
    }

    /// A level of the way up; `up` counts from the innermost.
    fn up(&mut self, up: usize) -> UpBlock {
        let c = self.config;
        let level = c.block_out_channels.len() - 1 - up;
        let attend = c.up_block_types[up] == "CrossAttnUpBlock2D";
        let mut block = UpBlock { resnets: vec![], attentions: vec![], upsamplers: vec![] };
        for layer in 0..=c.layers(level).unwrap_or(0) {
            let skip = self.skips.pop().unwrap_or(0);
            let width = c.block_out_channels[level];
            block.resnets.push(self.resnet(self.current + skip, width));
            self.current = width;
            if attend {
                let shape = self.shape(level, c.up_depth(up, layer));
                block.attentions.push(Transformer2D::new(self.init, &shape));
            }
        }
        if level > 0 {
            block.upsamplers.push(Upsample2D::new(self.init, self.current));
        }
        block
    }
}

/// Latents on the device from host values.
pub fn tensor4(data: Vec<f32>, shape: [usize; 4], device: &burn::tensor::Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(data, shape), device)
}
