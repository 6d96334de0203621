//! The head: five linear maps with no activations between, hence one affine map.

use burn::module::Module;
use burn::tensor::Tensor;
use craft_nn::init::Init;
use craft_nn::layers::Linear;
use craft_nn::open_clip::unwrap_prefix;
use craft_nn::weights::{HostTensor, TensorMap};

use crate::error::RewardError;
use crate::files::RewardFiles;

/// Indices of the linear maps among the layers of the published network; the others are dropout.
const LAYERS: [usize; 5] = [0, 2, 4, 6, 7];

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
    let what = "the head (head.safetensors, or sac+logos+ava1-l14-linearMSE.pth)";
    let head = files.take_weights(reward, what, is_head)?;
    Ok(unwrap_prefix(head, &["mlp.", "model.", "module."]))
}

/// Whether a name is of a head.
pub(crate) fn is_head(name: &str) -> bool {
    name.starts_with("layers.0.") || name.starts_with("mlp.layers.0.")
}

/// The affine map that a head amounts to: weights for embeddings of a width, and the bias.
pub(crate) fn fold(
    reward: &str,
    head: &TensorMap,
    width: usize,
) -> Result<(Vec<f64>, f64), RewardError> {
    let error = |found: String, expected: String| RewardError::File {
        reward: reward.to_owned(),
        file: "the head".to_owned(),
        found,
        expected,
    };
    let names: Vec<String> =
        LAYERS.iter().flat_map(|i| ["weight", "bias"].map(|p| format!("layers.{i}.{p}"))).collect();
    if let Some(unknown) = head.keys().find(|name| !names.contains(name)) {
        return Err(error(format!("tensor {unknown}"), format!("exactly {}", names.join(", "))));
    }
    let get = |name: String, shape: Option<&[usize]>| -> Result<&HostTensor, RewardError> {
        let Some(tensor) = head.get(&name) else {
            let expected = format!("exactly {}", names.join(", "));
            return Err(error(format!("no tensor {name}"), expected));
        };
        match shape {
            Some(shape) if tensor.shape != shape => Err(error(
                format!("{name} has shape {:?}", tensor.shape),
                format!("{shape:?}, to fit its neighbours and projection_dim = {width}"),
            )),
            _ => Ok(tensor),
        }
    };
    // From the output back: score = row · (input of the layer) + bias.
    let (mut row, mut bias) = (vec![1.0f64], 0.0f64);
    for (position, layer) in LAYERS.into_iter().enumerate().rev() {
        let out = row.len();
        let b = get(format!("layers.{layer}.bias"), Some(&[out]))?;
        let name = format!("layers.{layer}.weight");
        let columns = match position {
            0 => width,
            _ => get(name.clone(), None)?.shape.get(1).copied().unwrap_or(0),
        };
        let w = get(name, Some(&[out, columns]))?;
        bias += row.iter().zip(&b.data).map(|(r, b)| r * f64::from(*b)).sum::<f64>();
        let mut next = vec![0.0; columns];
        for (r, line) in row.iter().zip(w.data.chunks_exact(columns.max(1))) {
            for (n, w) in next.iter_mut().zip(line) {
                *n += r * f64::from(*w);
            }
        }
        row = next;
    }
    Ok((row, bias))
}
