//! `craft forward`: one component on the tensors of a file, so that anyone can compare with PyTorch.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};
use craft_model::condition::Condition;
use craft_model::denoiser::{Denoiser, Input as Asked};
use craft_model::model::{load_text_encoder, load_vae};
use craft_model::sd::{self, Config as UNetConfig};
use craft_nn::clip::ClipTextConfig;
use craft_nn::vae::VaeConfig;
use craft_nn::vae_tiles::{Tiles, VaeParts};
use craft_nn::weights;
use craft_store::tensors::{self, Dtype, TensorReader};
use craft_train::loss::weighted_mse;
use craft_train::optimizer::{self, GradMap};

use super::{App, model_dir};
use crate::cli::{Component, ForwardArgs};
use crate::exit::{input, usage};
use crate::interrupt;

fn parts(args: &ForwardArgs, config: &VaeConfig) -> VaeParts {
    VaeParts { slicing: false, tiles: args.vae_tiling.then(|| Tiles::of(config)) }
}

type Output = BTreeMap<String, tensors::Tensor>;

/// Runs the component and writes what comes out.
pub(super) fn forward(app: &App, args: &ForwardArgs) -> anyhow::Result<()> {
    if (args.loss || args.grads) && args.component != Component::Unet {
        return Err(usage("--loss and --grads go with --component unet only"));
    }
    interrupt::exit_at_once()?;
    let mut file = Input { path: &args.input, reader: TensorReader::open(&args.input)? };
    let dir = model_dir(app, &args.model, args.model_config.as_deref())?;
    let mut out = Output::new();
    match args.component {
        Component::Unet => unet(app, args, &dir.join("unet"), &mut file, &mut out)?,
        Component::VaeEncode => {
            let (vae, config) = load_vae(&dir.join("vae"), app.compute.device())?;
            let unit = config.scale();
            let x = file.floats("sample", [None, Some(config.in_channels), None, None])?;
            let [_, _, height, width] = dims(&x);
            let whole = height % unit == 0 && width % unit == 0;
            if height.min(width) < unit || args.vae_tiling && !whole {
                let expected = if args.vae_tiling { "multiples of" } else { "at least" };
                return Err(input(format!(
                    "{}: tensor `sample` has shape {:?}; expected height and width that are {expected} {unit}",
                    args.input.display(),
                    x.shape
                )));
            }
            let x = to_device(x, app.compute.device());
            let (mean, logvar) = parts(args, &config).encode(&vae, x);
            put(&mut out, "mean", mean);
            put(&mut out, "logvar", logvar);
        }
        Component::VaeDecode => {
            let (vae, config) = load_vae(&dir.join("vae"), app.compute.device())?;
            let x = file.floats("sample", [None, Some(config.latent_channels), None, None])?;
            let x = to_device::<4>(x, app.compute.device());
            put(&mut out, "sample", parts(args, &config).decode(&vae, x));
        }
        Component::TextEncoder => text(app, &dir.join("text_encoder"), &mut file, &mut out)?,
        Component::TextEncoder2 => text(app, &dir.join("text_encoder_2"), &mut file, &mut out)?,
    }
    Ok(tensors::write_map(&args.output, &out, Dtype::F32)?)
}

fn unet(
    app: &App,
    args: &ForwardArgs,
    dir: &Path,
    file: &mut Input<'_>,
    out: &mut Output,
) -> anyhow::Result<()> {
    let device = if args.grads {
        app.compute.device().clone().autodiff()
    } else {
        app.compute.device().clone()
    };
    let (unet, config) = sd::load(dir, &device)?;
    let sample = file.floats("sample", [None, Some(config.in_channels), None, None])?;
    let [batch, _, height, width] = dims(&sample);
    let timesteps = file.floats("timestep", [Some(batch)])?.data;
    let context =
        file.floats("encoder_hidden_states", [Some(batch), None, context_width(&config)])?;
    let (mut pooled, mut ids) = (None, Vec::new());
    if config.addition_embed_type.is_some() {
        let text = file.floats("text_embeds", [Some(batch), pooled_width(&config)])?;
        pooled = Some(to_device(text, &device));
        let numbers = file.floats("time_ids", [Some(batch), Some(6)])?.data;
        ids.extend(numbers.chunks(6).map(<[f32]>::to_vec));
    }
    let shape = [Some(batch), Some(config.out_channels), Some(height), Some(width)];
    let goal = if args.loss || args.grads {
        Some((file.floats("target", shape)?, file.floats("weight", [Some(batch)])?.data))
    } else {
        None
    };
    let condition = Condition { states: to_device(context, &device), mask: None, pooled, ids };
    let latents = to_device(sample, &device);
    let unet = Denoiser::from(unet);
    let prediction = unet.predict(Asked { latents, times: &timesteps, condition: &condition });
    put(out, "sample", prediction.clone());
    let Some((target, weight)) = goal else { return Ok(()) };
    let loss = weighted_mse(prediction, to_device(target, &device), &weight, batch);
    let value = weights::to_vec(loss.clone());
    out.insert("loss".to_owned(), tensors::Tensor { shape: vec![], data: value });
    if args.grads {
        let mut grads = GradMap::new();
        optimizer::collect(&unet, loss.backward(), &mut grads);
        for (name, shape) in weights::shapes(&unet) {
            let count = shape.iter().product();
            let data = grads.remove(&name).unwrap_or_else(|| vec![0.0; count]);
            out.insert(format!("grad.{name}"), tensors::Tensor { shape, data });
        }
    }
    Ok(())
}

/// Width of pooled text: what the six sizes leave of the input of SDXL's further condition.
fn pooled_width(config: &UNetConfig) -> Option<usize> {
    let sizes = 6 * config.addition_time_embed_dim?;
    Some(config.projection_class_embeddings_input_dim?.saturating_sub(sizes))
}

fn context_width(config: &UNetConfig) -> Option<usize> {
    (0..config.block_out_channels.len()).find_map(|level| config.context(level))
}

fn text(app: &App, dir: &Path, file: &mut Input<'_>, out: &mut Output) -> anyhow::Result<()> {
    let encoder = load_text_encoder(dir, app.compute.device())?;
    let path = dir.join("config.json");
    let json = craft_store::input::read_text(&path, craft_store::input::MAX_TEXT)?;
    let config = ClipTextConfig::from_json(&json)?;
    let (shape, ids) = file.reader.read_i64("input_ids")?;
    let longest = config.max_position_embeddings;
    let expected = format!("[B, L] with L at most {longest}");
    let shape = match <[usize; 2]>::try_from(shape.clone()) {
        Ok(shape) if shape[0] > 0 && (1..=longest).contains(&shape[1]) => shape,
        _ => return Err(file.wrong_shape("input_ids", &shape, &expected)),
    };
    if let Some(id) = ids.iter().find(|id| !(0..config.vocab_size as i64).contains(*id)) {
        return Err(input(format!(
            "{}: tensor `input_ids` holds {id}; expected token ids from 0 to {}",
            file.path.display(),
            config.vocab_size - 1
        )));
    }
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), app.compute.device());
    let states = encoder.forward(ids);
    put(out, "last_hidden_state", states.last_hidden_state);
    put(out, "penultimate_hidden_state", states.penultimate_hidden_state);
    put(out, "pooled", states.pooled);
    if let Some(embeds) = states.text_embeds {
        put(out, "text_embeds", embeds);
    }
    Ok(())
}

/// The tensors that go in.
struct Input<'a> {
    path: &'a Path,
    reader: TensorReader,
}

impl Input<'_> {
    /// A tensor of the expected shape; `None` stands for any size but 0.
    fn floats<const D: usize>(
        &mut self,
        name: &str,
        expected: [Option<usize>; D],
    ) -> anyhow::Result<tensors::Tensor> {
        let tensor = self.reader.read(name)?;
        let fits = tensor.shape.len() == D
            && tensor.shape.iter().zip(expected).all(|(n, e)| e.map_or(*n > 0, |e| e == *n));
        if fits {
            return Ok(tensor);
        }
        let words = expected.map(|e| e.map_or("any".to_owned(), |e| e.to_string())).join(", ");
        Err(self.wrong_shape(name, &tensor.shape, &format!("[{words}]")))
    }

    fn wrong_shape(&self, name: &str, found: &[usize], expected: &str) -> anyhow::Error {
        input(format!(
            "{}: tensor `{name}` has shape {found:?}; expected {expected} for this model",
            self.path.display()
        ))
    }
}

fn dims(tensor: &tensors::Tensor) -> [usize; 4] {
    std::array::from_fn(|i| tensor.shape.get(i).copied().unwrap_or(0))
}

fn to_device<const D: usize>(tensor: tensors::Tensor, device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(tensor.data, tensor.shape), device)
}

fn put<const D: usize>(out: &mut Output, name: &str, tensor: Tensor<D>) {
    let shape = tensor.dims().to_vec();
    out.insert(name.to_owned(), tensors::Tensor { shape, data: weights::to_vec(tensor) });
}
