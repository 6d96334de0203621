//! The preference loss: against its formula, and in a few steps of descent.
#![allow(clippy::unwrap_used, missing_docs, clippy::disallowed_methods)]

mod common;

use burn::module::Param;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use common::model;
use craft_nn::clip::ClipModel;
use craft_nn::weights::{self, ParamMapper, to_vec};
use craft_rewards::train_dual::bradley_terry_contrastive_loss as loss;

const N: usize = 6;

fn pixels(seed: u32, device: &Device) -> Tensor<4> {
    let data: Vec<f32> =
        common::picture(seed, 16 * N, 16).into_iter().map(|b| f32::from(b) / 64.0 - 2.0).collect();
    Tensor::from_data(TensorData::new(data, [N, 3, 16, 16]), device)
}

fn ids(device: &Device) -> Tensor<2, Int> {
    let word = |i: usize| [698, (i as i32) * 7 + 3, 20 + i as i32, 699, 699, 699, 699, 699];
    let mut rows: Vec<i32> = (0..N).flat_map(word).collect();
    rows.copy_within(0..8, 40); // The last text is the first.
    Tensor::from_data(TensorData::new(rows, [N, 8]), device)
}

fn preferred(device: &Device) -> Tensor<1> {
    Tensor::from_data([1.0f32, 0.0, 0.0, 1.0, 0.5, 0.0], device)
}

fn rows(x: Tensor<2>) -> Vec<Vec<f64>> {
    to_vec(x).chunks(10).map(|r| r.iter().map(|v| f64::from(*v)).collect()).collect()
}

#[test]
fn the_loss_is_its_formula() {
    let device = Device::flex();
    let model = model(3, &device);
    let (a, b) = (pixels(1, &device), pixels(2, &device));
    let (va, vb) = (rows(model.image_embeds(a.clone())), rows(model.image_embeds(b.clone())));
    let t = rows(model.text_embeds(ids(&device)));
    let scale = 2.6592f64.exp();
    let s = |v: &[f64], t: &[f64]| scale * v.iter().zip(t).map(|(a, b)| a * b).sum::<f64>();
    let p: Vec<f64> = to_vec(preferred(&device)).into_iter().map(f64::from).collect();
    let log_sigmoid = |x: f64| -(1.0 + (-x).exp()).ln();
    let mut preference = 0.0;
    for i in 0..N {
        let d = s(&va[i], &t[i]) - s(&vb[i], &t[i]);
        preference -= (p[i] * log_sigmoid(d) + (1.0 - p[i]) * log_sigmoid(-d)) / N as f64;
    }
    let mut contrast = 0.0;
    for i in 0..N {
        let chosen = |i: usize| if p[i] >= 0.5 { &va[i] } else { &vb[i] };
        let same = |i: usize, j: usize| i != j && i.is_multiple_of(5) && j.is_multiple_of(5);
        let others = |f: &dyn Fn(usize) -> f64| -> f64 {
            (0..N).filter(|j| !same(i, *j)).map(|j| f(j).exp()).sum::<f64>().ln()
        };
        let own = s(chosen(i), &t[i]);
        contrast -= (own - others(&|j| s(chosen(i), &t[j]))) / (2 * N) as f64;
        contrast -= (own - others(&|j| s(chosen(j), &t[i]))) / (2 * N) as f64;
    }
    let value = |weight| {
        let value = loss(&model, a.clone(), b.clone(), ids(&device), preferred(&device), weight);
        f64::from(to_vec(value)[0])
    };
    assert!((value(0.0) - preference).abs() < 1e-5, "{} {preference}", value(0.0));
    let whole = preference + 0.3 * contrast;
    assert!((value(0.3) - whole).abs() < 1e-5, "{} {whole}", value(0.3));
}

struct Descent<'a> {
    gradients: &'a Gradients,
    rate: f64,
    moved: usize,
}

impl ParamMapper for Descent<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let gradient = param.val().grad(self.gradients);
        let gradient = to_vec(gradient.unwrap_or_else(|| panic!("{name} has no gradient")));
        self.moved += usize::from(gradient.iter().any(|g| *g != 0.0));
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt().max(1e-9);
        let step = self.rate / norm;
        let old = to_vec(param.val());
        let new = old.iter().zip(&gradient).map(|(p, g)| p - (step * f64::from(*g)) as f32);
        weights::replace(param, new.collect())
    }
}

#[test]
fn a_few_steps_learn_the_preferences() {
    let device = Device::flex().autodiff();
    let mut model: ClipModel = model(3, &device);
    let mut losses = Vec::new();
    for _ in 0..40 {
        let (a, b) = (pixels(1, &device), pixels(2, &device));
        let value = loss(&model, a, b, ids(&device), preferred(&device), 0.3);
        losses.push(to_vec(value.clone())[0]);
        let gradients = value.backward();
        let mut descent = Descent { gradients: &gradients, rate: 0.03, moved: 0 };
        model = weights::map(model, &mut descent);
        assert!(descent.moved > 60, "{} parameters have a gradient", descent.moved);
    }
    let (first, last) = (losses[0], losses[losses.len() - 1]);
    assert!(last < 0.6 * first, "{losses:?}");
}
