//! Training with attached factors, block-wise backward passes and bf16 weights, against PEFT and
//! against the plain passes (fixtures/unet, fixtures/lora).
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{Device, Gradients, Tensor};
use common::{close, error, read, tensor, text};
use craft_nn::init::Init;
use craft_nn::lora::{self, Adapter, Component, Pairs};
use craft_nn::unet::{AddedCondition, UNet2DConditionModel};
use craft_nn::unet_blocks::UNetInputs;
use craft_nn::unet_config::UNetConfig;
use craft_nn::weights::{self, ParamVisitor, TensorMap, WeightError, to_vec};

/// A network of the fixtures with its inputs.
struct Case {
    unet: UNet2DConditionModel,
    io: TensorMap,
    timesteps: Vec<f32>,
    device: Device,
}

impl Case {
    fn load(family: &str, device: Device) -> Self {
        let config = UNetConfig::from_json(&text(&format!("unet/{family}/config.json"))).unwrap();
        let (file, _) = read(&format!("unet/{family}/diffusion_pytorch_model.safetensors"));
        let empty = UNet2DConditionModel::new(&mut Init::zeros(&device), &config);
        let (io, ints) = read(&format!("unet/{family}/io.safetensors"));
        let timesteps = ints["timestep"].1.iter().map(|&t| t as f32).collect();
        Self { unet: weights::load(empty, file).unwrap(), io, timesteps, device }
    }

    fn input<const D: usize>(&self, name: &str) -> Tensor<D> {
        tensor(&self.io[name], &self.device)
    }

    fn added(&self) -> Option<AddedCondition> {
        self.io.contains_key("text_embeds").then(|| AddedCondition {
            text_embeds: self.input("text_embeds"),
            time_ids: self.io["time_ids"].data.chunks(6).map(<[f32]>::to_vec).collect(),
        })
    }

    fn predict(&self, context: &Tensor<3>) -> Tensor<4> {
        self.unet.forward(self.input("sample"), &self.timesteps, context, self.added().as_ref())
    }

    /// The weighted loss; where the fixture has no target, of the noisy input as target.
    fn loss(&self, prediction: Tensor<4>) -> Tensor<1> {
        let target = if self.io.contains_key("target") { "target" } else { "sample" };
        let [b, c, h, w] = prediction.dims();
        let squares =
            (prediction - self.input(target)).powi_scalar(2).reshape([b, c * h * w]).mean_dim(1);
        match self.io.get("weight") {
            Some(weight) => (squares.reshape([b]) * tensor(weight, &self.device)).mean(),
            None => squares.mean(),
        }
    }

    /// Loss, gradients by name and gradients of the text embeddings (the pooled ones behind the
    /// others) of the plain passes.
    fn whole(&self) -> (f32, Grads, Vec<f32>) {
        let context = self.input::<3>("encoder_hidden_states").require_grad();
        let mut added = self.added();
        if let Some(added) = &mut added {
            added.text_embeds = added.text_embeds.clone().require_grad();
        }
        let (sample, times) = (self.input("sample"), &self.timesteps);
        let loss = self.loss(self.unet.forward(sample, times, &context, added.as_ref()));
        let mut gradients = loss.backward();
        let mut text = to_vec(context.grad_remove(&mut gradients).unwrap());
        if let Some(added) = added {
            text.extend(to_vec(added.text_embeds.grad_remove(&mut gradients).unwrap()));
        }
        let mut grads = Grads::new();
        collect(&self.unet, &gradients, &mut grads);
        (to_vec(loss)[0], grads, text)
    }

    /// The same block by block.
    fn by_block(&self) -> (f32, Grads, Vec<f32>) {
        let mut grads = Grads::new();
        let (context, added) = (self.input("encoder_hidden_states"), self.added());
        let inputs = UNetInputs {
            sample: self.input("sample"),
            timesteps: &self.timesteps,
            context: &context,
            added: added.as_ref(),
        };
        let back = self.unet.backward_by_block(
            inputs,
            true,
            |prediction| self.loss(prediction),
            &mut |gradients| collect(&self.unet, &gradients, &mut grads),
        );
        let mut text = to_vec(back.context.unwrap());
        text.extend(back.pooled.map(to_vec).into_iter().flatten());
        (back.loss, grads, text)
    }
}

type Grads = BTreeMap<String, Vec<f32>>;

struct Collect<'a>(&'a Gradients, &'a mut Grads);

impl ParamVisitor for Collect<'_> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        if let Some(grad) = param.val().grad(self.0) {
            let before = self.1.insert(name.to_owned(), to_vec(grad));
            assert!(before.is_none(), "{name} has a gradient in two blocks");
        }
    }
}

fn collect<M: Module>(module: &M, gradients: &Gradients, into: &mut Grads) {
    weights::visit(module, &mut Collect(gradients, into));
}

/// The fixture's adapter for the tiny UNet of SD 1.5.
fn pairs(unet: &UNet2DConditionModel) -> Pairs {
    let (tensors, _) = read("lora/kohya.safetensors");
    let shapes = [(Component::Unet, weights::shapes(unet))];
    let adapter = Adapter::from_tensors(tensors, &BTreeMap::new(), &shapes).unwrap();
    adapter.components[&Component::Unet].clone()
}

fn with_factors(device: Device) -> Case {
    let mut case = Case::load("sd15", device);
    case.unet = lora::attach(case.unet.clone(), &pairs(&case.unet));
    case
}

#[test]
fn attached_factors_predict_and_learn_as_in_peft() {
    let case = with_factors(Device::flex().autodiff());
    let (expected, _) = read("lora/gradients.safetensors");
    let prediction = case.predict(&case.input("encoder_hidden_states"));
    close(prediction.clone(), &expected["out.sample"], 1e-4);
    let loss = case.loss(prediction);
    close(loss.clone(), &expected["out.loss"], 1e-4);
    let mut grads = Grads::new();
    collect(&case.unet, &loss.backward(), &mut grads);
    assert_eq!(grads.len(), 2 * 61, "only the factors have gradients");
    for (name, grad) in &grads {
        let peer =
            name.replace(".weight.lora.down", ".lora_A").replace(".weight.lora.up", ".lora_B");
        let error = error(grad, &expected[&format!("grad.unet.{peer}.weight")].data);
        assert!(error < 1e-3, "{name}: relative error {error}");
    }
}

#[test]
fn factors_come_back_as_they_went_in_and_merge() {
    let case = with_factors(Device::flex());
    let before = Case::load("sd15", Device::flex());
    let tensors = weights::export(&case.unet);
    assert_eq!(lora::pairs(&tensors, 1.5), pairs(&before.unet));
    let merged = weights::export(&lora::detach_merged(case.unet.clone()));
    let expected = weights::export(&lora::merge(before.unet, &pairs(&case.unet), 1.0));
    assert_eq!(merged.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, values) in merged {
        let error = error(&values.data, &expected[&name].data);
        assert!(error < 1e-6, "{name}: {error}");
    }
}

#[track_caller]
fn same(name: &str, case: &Case) {
    let (loss, grads, context) = case.whole();
    let (block_loss, block_grads, block_context) = case.by_block();
    assert!((loss - block_loss).abs() <= 1e-6 * loss.abs(), "{name}: {loss} {block_loss}");
    assert_eq!(grads.keys().collect::<Vec<_>>(), block_grads.keys().collect::<Vec<_>>(), "{name}");
    // The gradient of a bias before a softmax is rounding noise.
    let top = grads.values().flatten().fold(0f32, |m, v| m.max(v.abs()));
    for (parameter, grad) in &grads {
        let noise = grad.iter().all(|v| v.abs() < 1e-6 * top);
        let error = error(&block_grads[parameter], grad);
        assert!(noise || error < 1e-4, "{name}: {parameter}: relative error {error}");
    }
    let error = error(&block_context, &context);
    assert!(error < 1e-4, "{name}: text embeddings: relative error {error}");
}

#[test]
fn block_by_block_gives_the_gradients_of_one_backward_pass() {
    for family in ["sd15", "sd2", "sdxl"] {
        same(family, &Case::load(family, Device::flex().autodiff()));
    }
    same("lora", &with_factors(Device::flex().autodiff()));
    let mut odd = Case::load("sd2", Device::flex().autodiff());
    odd.io.insert("sample".to_owned(), read("unet/sd2/odd.safetensors").0["sample"].clone());
    same("odd height and width", &odd);
}

#[test]
fn bf16_weights_compute_as_their_rounded_values() {
    let round = |mut case: Case| {
        case.unet = weights::to_bf16(case.unet);
        case
    };
    let device = Device::flex().autodiff();
    let half = round(Case::load("sd15", device.clone()));
    let exact = Case::load("sd15", device.clone());
    // Rounded while they are read.
    let all = weights::export(&exact.unet);
    let empty = Case::load("sd15", device.clone()).unet;
    let read = |name: &str| Ok::<_, WeightError>(all[name].data.clone());
    let read = weights::load_as(empty, &weights::shapes(&exact.unet), true, read).unwrap();
    assert_eq!(weights::export(&read), weights::export(&half.unet));
    // The same values in 32 bits.
    let mut rounded = Case::load("sd15", device.clone());
    let tensors = weights::export(&half.unet);
    assert_ne!(tensors, weights::export(&exact.unet));
    rounded.unet = weights::load(rounded.unet, tensors).unwrap();
    let (loss, grads, _) = half.whole();
    let (rounded_loss, rounded_grads, _) = rounded.whole();
    assert_eq!(loss, rounded_loss);
    assert_eq!(grads, rounded_grads);
    let (exact_loss, _, _) = exact.whole();
    assert!((loss - exact_loss).abs() < 1e-2 * exact_loss, "{loss} against {exact_loss}");
    same("bf16", &half);
    same("bf16 base, f32 factors", &round(with_factors(device)));
}
