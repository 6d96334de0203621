//! The UNet as a sequence of blocks, and a backward pass that keeps only what goes into each block.

use burn::module::Module;
use burn::tensor::{Gradients, Tensor};

use crate::layers::{Conv2d, GroupNorm};
use crate::ops::{self, Added};
use crate::resnet::{Downsample2D, ResnetBlock2D, Upsample2D};
use crate::transformer::Transformer2D;
use crate::unet::{AddedCondition, UNet2DConditionModel};
use crate::weights;

/// A part of the network between two feature maps.
#[derive(Clone, Copy, Debug)]
enum Block<'a> {
    Input(&'a Conv2d),
    Resnet(&'a ResnetBlock2D),
    /// A residual block of the way up, whose input is concatenated with the most recent skip.
    Joined(&'a ResnetBlock2D),
    Attention(&'a Transformer2D),
    Down(&'a Downsample2D),
    Up(&'a Upsample2D),
    Output(&'a GroupNorm, &'a Conv2d),
}

/// A block, and whether its output is left for the way up.
#[derive(Clone, Copy, Debug)]
struct Step<'a> {
    block: Block<'a>,
    leaves: bool,
}

/// What goes into a block.
#[derive(Clone, Debug)]
struct Inputs {
    x: Tensor<4>,
    skip: Option<Tensor<4>>,
    /// Height and width of the features that a level of the way up is to join.
    size: Option<[usize; 2]>,
}

impl Block<'_> {
    fn forward(self, inputs: Inputs, time: &Tensor<2>, context: &Tensor<3>) -> Tensor<4> {
        let Inputs { x, skip, size } = inputs;
        match (self, skip) {
            (Self::Joined(block), Some(skip)) => {
                let skip = ops::repeat_batch(skip, x.dims()[0]);
                block.forward(ops::concat_channels(x, skip), Some(time))
            }
            (Self::Resnet(block) | Self::Joined(block), _) => block.forward(x, Some(time)),
            (Self::Attention(block), _) => block.forward(x, context),
            (Self::Input(conv), _) => conv.forward(x),
            (Self::Down(block), _) => block.forward(x),
            (Self::Up(block), _) => block.forward(x, size),
            (Self::Output(norm, conv), _) => conv.after_norm(norm, x, Added::Nothing),
        }
    }
}

/// A leaf of a new graph that gets a gradient.
fn leaf<const D: usize>(x: &Tensor<D>) -> Tensor<D> {
    x.clone().without_autodiff().autodiff().require_grad()
}

fn add<const D: usize>(sum: &mut Option<Tensor<D>>, more: Option<Tensor<D>>) {
    *sum = match (sum.take(), more) {
        (Some(a), Some(b)) => Some(ops::add(a, b)),
        (a, b) => a.or(b),
    };
}

/// Values that a training pass keeps between forward and backward pass, for one picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// In one backward pass over the whole network.
    pub whole: usize,
    /// In [`UNet2DConditionModel::backward_by_block`].
    pub by_block: usize,
}

/// Values of a feature map inside a transformer layer that its backward pass reads, for each
/// channel and pixel: three norms, queries, keys and values, outputs of attention, the gated part
/// (12) and sums.
const PER_LAYER: usize = 24;

/// What [`UNet2DConditionModel::forward`] takes.
#[derive(Clone, Debug)]
pub struct UNetInputs<'a> {
    /// Noisy latents `[B, in, h, w]`.
    pub sample: Tensor<4>,
    /// Timesteps, of length B.
    pub timesteps: &'a [f32],
    /// Text embeddings `[B, L, D]`.
    pub context: &'a Tensor<3>,
    /// SDXL's further condition.
    pub added: Option<&'a AddedCondition>,
}

/// Results of a backward pass other than the gradients of parameters.
#[derive(Clone, Debug)]
pub struct Backward {
    /// The loss.
    pub loss: f32,
    /// Its gradient with respect to the text embeddings, if it was asked for.
    pub context: Option<Tensor<3>>,
    /// Its gradient with respect to the pooled text embeddings, if the model has them and
    /// the gradient was asked for.
    pub pooled: Option<Tensor<2>>,
}

impl UNet2DConditionModel {
    fn steps(&self) -> Vec<Step<'_>> {
        let mut steps = vec![Step { block: Block::Input(&self.conv_in), leaves: true }];
        for level in &self.down_blocks {
            for (i, resnet) in level.resnets.iter().enumerate() {
                let attention = level.attentions.get(i);
                steps.push(Step { block: Block::Resnet(resnet), leaves: attention.is_none() });
                steps.extend(attention.map(|a| Step { block: Block::Attention(a), leaves: true }));
            }
            let down = level.downsamplers.iter();
            steps.extend(down.map(|d| Step { block: Block::Down(d), leaves: true }));
        }
        let plain = |block| Step { block, leaves: false };
        if let Some(mid) = &self.mid_block {
            for (i, resnet) in mid.resnets.iter().enumerate() {
                steps.push(plain(Block::Resnet(resnet)));
                steps.extend(mid.attentions.get(i).map(|a| plain(Block::Attention(a))));
            }
        }
        for level in &self.up_blocks {
            for (i, resnet) in level.resnets.iter().enumerate() {
                steps.push(plain(Block::Joined(resnet)));
                steps.extend(level.attentions.get(i).map(|a| plain(Block::Attention(a))));
            }
            steps.extend(level.upsamplers.iter().map(|u| plain(Block::Up(u))));
        }
        steps.push(plain(Block::Output(&self.conv_norm_out, &self.conv_out)));
        steps
    }

    /// Values kept for one picture with latents of `height` by `width`, counted from the shapes of
    /// the layers: what the operations' backward passes read. Temporary values come on top.
    pub fn kept_values(&self, height: usize, width: usize) -> Kept {
        let (mut whole, mut inputs, mut largest) = (0, 0, 0);
        let mut pixels = height * width;
        for step in self.steps() {
            let (inner, output) = match step.block {
                Block::Input(conv) => (0, pixels * conv.weight.dims()[0]),
                Block::Resnet(block) | Block::Joined(block) => {
                    let [input, output] = block.channels();
                    let joined = matches!(step.block, Block::Joined(_));
                    let input = input * if joined { 2 } else { 1 };
                    (pixels * (input + 2 * output), pixels * output)
                }
                Block::Attention(block) => {
                    let [channels, layers] = block.channels_and_layers();
                    let inner = pixels * channels * (PER_LAYER * layers + 4);
                    (inner, pixels * channels)
                }
                Block::Down(block) => {
                    pixels /= 4;
                    (0, pixels * block.channels())
                }
                Block::Up(block) => {
                    pixels *= 4;
                    (pixels * block.channels(), pixels * block.channels())
                }
                Block::Output(_, conv) => (pixels * conv.weight.dims()[1], 0),
            };
            whole += inner + output;
            inputs += output;
            largest = largest.max(inner);
        }
        Kept { whole, by_block: inputs + largest }
    }

    /// The model's prediction `[k·B, out, h, w]` for noisy latents `sample` `[B, in, h, w]` at
    /// `timesteps` (length B) under text embeddings `[k·B, L, D]`.
    ///
    /// k is mostly 1. With 2, row `B + i` is the prediction for sample `i` under another text, as
    /// guidance wants it: what comes before the first look at the text (SD 1.5's first residual
    /// block and the self-attention after it, whole levels of some networks) is computed once.
    /// SDXL's `added` condition, of k·B rows, goes into every block, so there nothing is shared.
    pub fn forward(
        &self,
        sample: Tensor<4>,
        timesteps: &[f32],
        context: &Tensor<3>,
        added: Option<&AddedCondition>,
    ) -> Tensor<4> {
        let rows = context.dims()[0];
        let (mut x, times) = match added {
            Some(_) => {
                let copies = rows / timesteps.len().max(1);
                (ops::repeat_batch(sample, rows), timesteps.repeat(copies))
            }
            None => (sample, timesteps.to_vec()),
        };
        let mut time = self.embed_time(&times, added, &x);
        let mut skips = Vec::new();
        for step in self.steps() {
            let inputs = step.inputs(x, &mut skips);
            time = ops::repeat_batch(time, inputs.x.dims()[0]);
            x = step.block.forward(inputs, &time, context);
            if step.leaves {
                skips.push(x.clone());
            }
        }
        ops::repeat_batch(x, rows)
    }

    /// Loss and gradients with block-wise gradient checkpointing: only what goes into each block is
    /// kept, and the backward pass computes each block once more (Chen et al. 2016,
    /// arXiv 1604.06174, with the network's own blocks as segments).
    ///
    /// `loss` maps the prediction to a scalar. `take` is given the gradients of one block's
    /// parameters at a time, so that they can leave the device's memory. The results are those of
    /// [`UNet2DConditionModel::forward`] and one backward pass.
    pub fn backward_by_block(
        &self,
        inputs: UNetInputs<'_>,
        wants_text: bool,
        loss: impl FnOnce(Tensor<4>) -> Tensor<1>,
        take: &mut dyn FnMut(Gradients),
    ) -> Backward {
        let UNetInputs { sample, timesteps, context, added } = inputs;
        let plain = self.valid();
        let added = added.map(|added| AddedCondition {
            text_embeds: added.text_embeds.clone().without_autodiff(),
            time_ids: added.time_ids.clone(),
        });
        let sample = sample.without_autodiff();
        let context = context.clone().without_autodiff();
        let time = plain.embed_time(timesteps, added.as_ref(), &sample);
        let mut kept = Vec::new();
        let mut skips = Vec::new();
        let mut x = sample.clone();
        let steps = self.steps();
        for (i, step) in plain.steps().into_iter().enumerate() {
            let inputs = step.inputs(x.clone(), &mut skips);
            kept.push(inputs.clone());
            if i + 1 < steps.len() {
                x = step.block.forward(inputs, &time, &context);
            }
            if step.leaves {
                skips.push(x.clone());
            }
        }
        drop((x, skips));

        let mut loss = Some(loss);
        let mut value = 0.0;
        let mut incoming: Option<Tensor<4>> = None;
        let mut to_skips: Vec<Option<Tensor<4>>> = Vec::new();
        let (mut to_time, mut to_context) = (None, None);
        for (step, inputs) in steps.into_iter().rev().zip(kept.into_iter().rev()) {
            if step.leaves {
                add(&mut incoming, to_skips.pop().flatten());
            }
            let skip = inputs.skip.as_ref().map(leaf);
            let inputs = Inputs { x: leaf(&inputs.x), skip, size: inputs.size };
            let block_time = leaf(&time);
            let block_context =
                if wants_text { leaf(&context) } else { context.clone().autodiff() };
            let y = step.block.forward(inputs.clone(), &block_time, &block_context);
            let root = match (loss.take(), incoming.take()) {
                (Some(loss), _) => {
                    let root = loss(y);
                    value = weights::to_vec(root.clone())[0];
                    root
                }
                (None, Some(incoming)) => (y * incoming.autodiff()).sum(),
                (None, None) => break,
            };
            let mut grads = root.backward();
            incoming = inputs.x.grad_remove(&mut grads);
            if let Some(skip) = inputs.skip {
                to_skips.push(skip.grad_remove(&mut grads));
            }
            add(&mut to_time, block_time.grad_remove(&mut grads));
            if wants_text {
                add(&mut to_context, block_context.grad_remove(&mut grads));
            }
            take(grads);
        }
        let pooled = added.as_ref().filter(|_| wants_text).map(|a| leaf(&a.text_embeds));
        let mut to_pooled = None;
        if let Some(incoming) = to_time
            && (pooled.is_some() || self.embeds_time_trainably())
        {
            let sample = sample.autodiff();
            let mut grads = self.backward_of_time(timesteps, added, &pooled, &sample, incoming);
            to_pooled = pooled.and_then(|pooled| pooled.grad_remove(&mut grads));
            take(grads);
        }
        Backward { loss: value, context: to_context, pooled: to_pooled }
    }

    /// Gradients of the timestep embedding, from the gradient `incoming` of its output; `pooled` is
    /// the leaf that stands for the pooled text.
    fn backward_of_time(
        &self,
        timesteps: &[f32],
        mut added: Option<AddedCondition>,
        pooled: &Option<Tensor<2>>,
        sample: &Tensor<4>,
        incoming: Tensor<2>,
    ) -> Gradients {
        if let (Some(added), Some(pooled)) = (&mut added, pooled) {
            added.text_embeds = pooled.clone();
        }
        let time = self.embed_time(timesteps, added.as_ref(), sample);
        (time * incoming.autodiff()).sum().backward()
    }
}

impl Step<'_> {
    /// What goes into the block: features, those from the way down that it joins, and the size of
    /// those that the next one will.
    fn inputs(&self, x: Tensor<4>, skips: &mut Vec<Tensor<4>>) -> Inputs {
        let skip = if matches!(self.block, Block::Joined(_)) { skips.pop() } else { None };
        let size = match (self.block, skips.last()) {
            (Block::Up(_), Some(next)) => Some([next.dims()[2], next.dims()[3]]),
            _ => None,
        };
        Inputs { x, skip, size }
    }
}
