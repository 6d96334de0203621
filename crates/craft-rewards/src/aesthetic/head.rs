//! The head: linear maps, in most published ones with no activations between, hence one affine map.

use burn::module::Module;
use burn::tensor::Tensor;
use craft_nn::init::Init;
use craft_nn::layers::Linear;
use craft_nn::open_clip::unwrap_prefix;
use craft_nn::weights::TensorMap;

use crate::error::RewardError;
use crate::files::RewardFiles;

/// The head as a network, for training it.
#[derive(Module, Debug)]
pub struct AestheticHead {
    layers_at_0: Linear,
    layers_at_2: Linear,
    layers_at_4: Linear,
    layers_at_6: Linear,
    layers_at_7: Linear,
}

impl AestheticHead {
    /// A head for embeddings of a width. The published one has 768 and `[1024, 128, 64, 16]`.
    pub fn new(init: &mut Init, width: usize, hidden: [usize; 4]) -> Self {
        let [a, b, c, d] = hidden;
        Self {
            layers_at_0: Linear::new(init, width, a, true),
            layers_at_2: Linear::new(init, a, b, true),
            layers_at_4: Linear::new(init, b, c, true),
            layers_at_6: Linear::new(init, c, d, true),
            layers_at_7: Linear::new(init, d, 1, true),
        }
    }

    /// Embeddings of length 1, `[B, width]`, to scores `[B]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<1> {
        let batch = x.dims()[0];
        let x = self.layers_at_2.forward(self.layers_at_0.forward(x));
        let x = self.layers_at_6.forward(self.layers_at_4.forward(x));
        self.layers_at_7.forward(x).reshape([batch])
    }
}

/// Takes the head out of a reward's files; `mlp.` and the like before its names are dropped.
pub(crate) fn take_head(reward: &str, files: &mut RewardFiles) -> Result<TensorMap, RewardError> {
    let what = "the head (head.safetensors, sac+logos+ava1-l14-linearMSE.pth, or sa_0_4_vit_l_14_linear.pth)";
    let head = files.take_weights(reward, what, is_head)?;
    Ok(unwrap_prefix(head, &["mlp.", "model.", "module."]))
}

/// Whether a name is of a head; a single linear map has no more name than `weight`.
pub(crate) fn is_head(name: &str) -> bool {
    name.starts_with("layers.0.") || name.starts_with("mlp.layers.0.") || name == "weight"
}

/// A linear map of a head: weights `[out, in]` row by row, biases.
#[derive(Debug)]
pub(crate) struct Map<'a> {
    weights: &'a [f32],
    bias: &'a [f32],
}

impl Map<'_> {
    fn inputs(&self) -> usize {
        self.weights.len() / self.bias.len().max(1)
    }

    /// Its value for an input.
    fn apply(&self, x: &[f64]) -> Vec<f64> {
        let rows = self.weights.chunks_exact(x.len().max(1));
        let dot = |row: &[f32]| row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>();
        rows.zip(self.bias).map(|(row, b)| dot(row) + f64::from(*b)).collect()
    }
}

/// The kinds of published heads: names of their linear maps, and whether a ReLU lies between them.
const KINDS: [(&str, &[&str], bool); 3] = [
    // LAION's first ones (github.com/LAION-AI/aesthetic-predictor): one map.
    ("weight", &[""], false),
    // `ava+logos-l14-reluMSE.pth`.
    ("layers.11.weight", &["layers.0.", "layers.3.", "layers.6.", "layers.9.", "layers.11."], true),
    ("layers.0.weight", &["layers.0.", "layers.2.", "layers.4.", "layers.6.", "layers.7."], false),
];

/// The linear maps of a head for embeddings of a width, and whether a ReLU lies between them.
pub(crate) fn maps<'a>(
    reward: &str,
    head: &'a TensorMap,
    width: usize,
) -> Result<(Vec<Map<'a>>, bool), RewardError> {
    let error = |found: String, expected: String| RewardError::File {
        reward: reward.to_owned(),
        file: "the head".to_owned(),
        found,
        expected,
    };
    let kind = KINDS.iter().find(|(mark, ..)| head.contains_key(*mark)).unwrap_or(&KINDS[2]);
    let (_, places, relu) = *kind;
    let names: Vec<String> =
        places.iter().flat_map(|place| ["weight", "bias"].map(|p| format!("{place}{p}"))).collect();
    if let Some(unknown) = head.keys().find(|name| !names.contains(name)) {
        return Err(error(format!("tensor {unknown}"), format!("exactly {}", names.join(", "))));
    }
    let get = |name: &String| {
        head.get(name).ok_or_else(|| {
            error(format!("no tensor {name}"), format!("exactly {}", names.join(", ")))
        })
    };
    let (mut maps, mut inputs) = (vec![], width);
    for (i, pair) in names.chunks_exact(2).enumerate() {
        let (weights, bias) = (get(&pair[0])?, get(&pair[1])?);
        let outputs = if i + 1 == places.len() { 1 } else { bias.data.len() };
        for (tensor, name, shape) in
            [(weights, &pair[0], &[outputs, inputs][..]), (bias, &pair[1], &[outputs])]
        {
            if tensor.shape != shape {
                return Err(error(
                    format!("{name} has shape {:?}", tensor.shape),
                    format!(
                        "{shape:?}, to fit its neighbours and the encoder's projection_dim = {width}{}",
                        hint(i)
                    ),
                ));
            }
        }
        maps.push(Map { weights: &weights.data, bias: &bias.data });
        inputs = outputs;
    }
    Ok((maps, relu))
}

/// What to do about a first map that does not fit.
fn hint(map: usize) -> &'static str {
    if map > 0 {
        return "";
    }
    ": use the encoder that the head was made for (heads of 768 columns: ViT-L/14, of 512: ViT-B/32 or ViT-B/16)"
}

/// The affine map that maps without anything between them amount to: weights, and the bias.
pub(crate) fn fold(maps: &[Map<'_>]) -> (Vec<f64>, f64) {
    // From the output back: score = row · (input of the map) + bias.
    let (mut row, mut bias) = (vec![1.0f64], 0.0f64);
    for map in maps.iter().rev() {
        bias += row.iter().zip(map.bias).map(|(r, b)| r * f64::from(*b)).sum::<f64>();
        let mut next = vec![0.0; map.inputs()];
        for (r, line) in row.iter().zip(map.weights.chunks_exact(map.inputs().max(1))) {
            for (n, w) in next.iter_mut().zip(line) {
                *n += r * f64::from(*w);
            }
        }
        row = next;
    }
    (row, bias)
}

/// The value of maps with a ReLU between each two.
pub(crate) fn with_relu(maps: &[Map<'_>], x: &[f64]) -> f64 {
    let mut x = x.to_vec();
    for (i, map) in maps.iter().enumerate() {
        if i > 0 {
            x.iter_mut().for_each(|v| *v = v.max(0.0));
        }
        x = map.apply(&x);
    }
    x.first().copied().unwrap_or(f64::NAN)
}
