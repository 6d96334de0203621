//! The cross model of MPS: image tokens that look at the words of a prompt
//! (github.com/Kwai-Kolors/MPS, `trainer/models/cross_modeling.py`, after PaLM and CoCa).

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};

use crate::clip::infer::{layers, shape, unclear};
use crate::config::ConfigError;
use crate::init::Init;
use crate::layers::{LayerNorm, Linear};
use crate::ops::{self, Act};
use crate::weights::{self, HostTensor, TensorMap, WeightError};

/// Width of an attention head.
const HEAD: usize = 64;
/// Added to variances in layer norms.
const EPS: f64 = 1e-5;

/// Sizes of a [`CrossModel`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossConfig {
    /// Width of image and text tokens.
    pub width: usize,
    /// Inner width of the feed-forward blocks.
    pub inner: usize,
    /// Number of layers.
    pub layers: usize,
    /// Heads of the queries; keys and values have one head of width 64.
    pub heads: usize,
}

impl CrossConfig {
    /// The sizes of a cross model with these weights (names from `layers.` on).
    ///
    /// # Errors
    /// When tensors are missing or of a shape that cannot be.
    pub fn from_weights(weights: &TensorMap) -> Result<Self, ConfigError> {
        let [queries, width] = shape(weights, "layers.0.0.fn.to_q.weight")?;
        let [_, inner] = shape(weights, "layers.0.0.fn.ff.2.weight")?;
        if queries == 0 || !queries.is_multiple_of(HEAD) {
            let found = format!("{queries} outputs");
            return Err(unclear("layers.0.0.fn.to_q.weight", found, "a multiple of 64".to_owned()));
        }
        Ok(Self { width, inner, layers: layers(weights, "layers."), heads: queries / HEAD })
    }
}

/// Attention of image tokens to words, in parallel with a feed-forward block.
#[derive(Module, Debug)]
struct Cross {
    norm: LayerNorm,
    to_q: Linear,
    to_kv: Linear,
    to_out: Linear,
    ff_at_0: Linear,
    ff_at_2: Linear,
}

impl Cross {
    fn new(init: &mut Init, c: &CrossConfig) -> Self {
        let linear = |init: &mut Init, input, output| Linear::new(init, input, output, false);
        Self {
            norm: LayerNorm::new(init, c.width, EPS),
            to_q: linear(init, c.width, c.heads * HEAD),
            to_kv: linear(init, c.width, 2 * HEAD),
            to_out: linear(init, c.heads * HEAD, c.width),
            ff_at_0: linear(init, c.width, 2 * c.inner),
            ff_at_2: linear(init, c.inner, c.width),
        }
    }

    fn forward(&self, x: Tensor<3>, words: Tensor<3>, heads: usize) -> Tensor<3> {
        let normed = self.norm.forward(x.clone());
        let kv = self.to_kv.forward(words);
        let (k, v) = (kv.clone().narrow(2, 0, HEAD), kv.narrow(2, HEAD, HEAD));
        let q = self.to_q.forward(normed.clone());
        let seen = ops::attention(q, k.repeat_dim(2, heads), v.repeat_dim(2, heads), heads, false);
        let inner = swiglu(self.ff_at_0.forward(normed));
        let out = ops::add(self.to_out.forward(seen), self.ff_at_2.forward(inner));
        ops::add(out, x)
    }
}

/// Attention of image tokens to each other with rotary positions, in parallel with a feed-forward
/// block.
#[derive(Module, Debug)]
struct Own {
    norm: LayerNorm,
    fused_attn_ff_proj: Linear,
    attn_out: Linear,
    ff_out_at_1: Linear,
}

impl Own {
    fn new(init: &mut Init, c: &CrossConfig) -> Self {
        let fused = c.heads * HEAD + 2 * HEAD + 2 * c.inner;
        Self {
            norm: LayerNorm::new(init, c.width, EPS),
            fused_attn_ff_proj: Linear::new(init, c.width, fused, false),
            attn_out: Linear::new(init, c.heads * HEAD, c.width, false),
            ff_out_at_1: Linear::new(init, c.inner, c.width, false),
        }
    }

    fn forward(&self, x: Tensor<3>, rotary: &Rotary, heads: usize) -> Tensor<3> {
        let all = self.fused_attn_ff_proj.forward(self.norm.forward(x.clone()));
        let queries = heads * HEAD;
        let ff = all.dims()[2] - queries - 2 * HEAD;
        let q = rotary.turn(all.clone().narrow(2, 0, queries), heads);
        let k = rotary.turn(all.clone().narrow(2, queries, HEAD), 1);
        let v = all.clone().narrow(2, queries + HEAD, HEAD);
        let seen = ops::attention(q, k.repeat_dim(2, heads), v.repeat_dim(2, heads), heads, false);
        let inner = swiglu(all.narrow(2, queries + 2 * HEAD, ff));
        let out = ops::add(self.attn_out.forward(seen), self.ff_out_at_1.forward(inner));
        ops::add(out, x)
    }
}

/// The first half times the SiLU of the second.
fn swiglu(x: Tensor<3>) -> Tensor<3> {
    let inner = x.dims()[2] / 2;
    let gate = ops::activation(x.clone().narrow(2, inner, inner), Act::Silu);
    x.narrow(2, 0, inner) * gate
}

/// Rotary positions (arXiv 2104.09864) over heads whose halves are the pairs.
struct Rotary {
    cos: Tensor<4>,
    sin: Tensor<4>,
}

impl Rotary {
    fn new(length: usize, device: &Device) -> Self {
        let half = HEAD / 2;
        let angle = |at: usize| {
            let (position, i) = (at / HEAD, at % HEAD % half);
            position as f32 / 10000f32.powf((2 * i) as f32 / HEAD as f32)
        };
        let table = |f: fn(f32) -> f32| {
            let values: Vec<f32> = (0..length * HEAD).map(|at| f(angle(at))).collect();
            Tensor::from_data(TensorData::new(values, [1, length, 1, HEAD]), device)
        };
        Self { cos: table(f32::cos), sin: table(f32::sin) }
    }

    /// Turns `[B, L, heads · 64]`.
    fn turn(&self, x: Tensor<3>, heads: usize) -> Tensor<3> {
        let [batch, length, width] = x.dims();
        let x = x.reshape([batch, length, heads, HEAD]);
        let (a, b) = (x.clone().narrow(3, 0, HEAD / 2), x.clone().narrow(3, HEAD / 2, HEAD / 2));
        let turned = Tensor::cat(vec![b.neg(), a], 3);
        let out = x * self.cos.clone() + turned * self.sin.clone();
        out.reshape([batch, length, width])
    }
}

#[derive(Module, Debug)]
struct Layer {
    cross: Cross,
    own: Own,
}

/// `Cross_model`.
#[derive(Module, Debug)]
pub struct CrossModel {
    layers: Vec<Layer>,
    #[module(skip)]
    heads: usize,
}

impl CrossModel {
    /// A network with the weights of a file (names from `layers.` on).
    ///
    /// # Errors
    /// When names or shapes differ from what the config describes.
    pub fn from_tensors(
        config: &CrossConfig,
        tensors: TensorMap,
        device: &Device,
    ) -> Result<Self, WeightError> {
        let init = &mut Init::zeros(device);
        let layer = |init: &mut Init| Layer {
            cross: Cross::new(init, config),
            own: Own::new(init, config),
        };
        let model =
            Self { layers: (0..config.layers).map(|_| layer(init)).collect(), heads: config.heads };
        weights::load(model, renamed(tensors, config.width))
    }

    /// Image tokens `[B, P, width]` and the words that they may look at, `[B, L, width]`, to image
    /// tokens.
    pub fn forward(&self, mut x: Tensor<3>, words: &Tensor<3>) -> Tensor<3> {
        let rotary = Rotary::new(x.dims()[1], &x.device());
        for layer in &self.layers {
            x = layer.cross.forward(x, words.clone(), self.heads);
            x = layer.own.forward(x, &rotary, self.heads);
        }
        x
    }
}

/// `layers.N.0.fn.` is `layers.N.cross.` here, `layers.N.1.fn.` `layers.N.own.`; the table of
/// rotary frequencies is computed; the biases of norms are buffers of zeros that a file may leave
/// out.
fn renamed(tensors: TensorMap, width: usize) -> TensorMap {
    let mut out = TensorMap::new();
    for (name, tensor) in tensors {
        if name.ends_with(".rotary_emb.inv_freq") || name.ends_with(".pos_emb") {
            continue;
        }
        let name = name.replacen(".0.fn.", ".cross.", 1).replacen(".1.fn.", ".own.", 1);
        if let Some(norm) = name.strip_suffix(".norm.weight") {
            let zeros = HostTensor { shape: vec![width], data: vec![0.0; width] };
            out.entry(format!("{norm}.norm.bias")).or_insert(zeros);
        }
        out.insert(name, tensor);
    }
    out
}
