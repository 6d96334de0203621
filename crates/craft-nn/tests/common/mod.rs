//! Reading fixtures and comparing with them.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use burn::module::Param;
use burn::tensor::{Device, Gradients, Int, Tensor, TensorData};
use craft_nn::weights::{self, HostTensor, ParamVisitor, TensorMap, to_vec};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};
use safetensors::{Dtype, SafeTensors};

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name)
}

pub fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

pub type Ints = BTreeMap<String, (Vec<usize>, Vec<i64>)>;

/// Floats by name, and integers by name.
pub fn read(name: &str) -> (TensorMap, Ints) {
    let bytes = std::fs::read(path(name)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let (mut floats, mut ints) = (TensorMap::new(), BTreeMap::new());
    for (name, view) in file.tensors() {
        let shape = view.shape().to_vec();
        let raw = view.data();
        if view.dtype() == Dtype::F32 {
            let data =
                raw.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            floats.insert(name, HostTensor { shape, data });
        } else {
            let data =
                raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
            ints.insert(name, (shape, data));
        }
    }
    (floats, ints)
}

pub fn tensor<const D: usize>(host: &HostTensor, device: &Device) -> Tensor<D> {
    let shape: [usize; D] = host.shape.clone().try_into().unwrap();
    Tensor::from_data(TensorData::new(host.data.clone(), shape), device)
}

pub fn ids((shape, data): &(Vec<usize>, Vec<i64>), device: &Device) -> Tensor<2, Int> {
    let shape: [usize; 2] = shape.clone().try_into().unwrap();
    Tensor::from_data(TensorData::new(data.clone(), shape), device)
}

/// Largest difference relative to the largest value.
pub fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|v| v.is_finite()));
    let top = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    worst / top.max(1e-6)
}

#[track_caller]
pub fn close<const D: usize>(found: Tensor<D>, expected: &HostTensor, tolerance: f32) {
    assert_eq!(found.dims().to_vec(), expected.shape);
    let error = error(&to_vec(found), &expected.data);
    assert!(error < tolerance, "relative error {error}");
}

struct Gradient<'a> {
    gradients: &'a Gradients,
    expected: &'a TensorMap,
    tolerance: f32,
    seen: Vec<String>,
    failed: Vec<String>,
}

impl ParamVisitor for Gradient<'_> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        self.seen.push(name.to_owned());
        let expected = &self.expected[&format!("grad.{name}")];
        let Some(gradient) = param.val().grad(self.gradients) else {
            self.failed.push(format!("{name}: no gradient"));
            return;
        };
        let error = error(&to_vec(gradient), &expected.data);
        // A bias before a softmax has no influence: its gradient is rounding noise.
        let noise = expected.data.iter().all(|v| v.abs() < 1e-4);
        if error > self.tolerance && !noise {
            self.failed.push(format!("{name}: relative error {error}"));
        }
    }
}

/// Compares the gradient of every parameter with `grad.<name>`; all expected ones must be there.
#[track_caller]
pub fn close_gradients<M: burn::module::Module>(
    model: &M,
    gradients: &Gradients,
    expected: &TensorMap,
    tolerance: f32,
) {
    let mut visitor = Gradient { gradients, expected, tolerance, seen: vec![], failed: vec![] };
    weights::visit(model, &mut visitor);
    visitor.seen.sort();
    let names: Vec<String> =
        expected.keys().filter_map(|n| n.strip_prefix("grad.")).map(str::to_owned).collect();
    assert_eq!(visitor.seen, names);
    assert!(visitor.failed.is_empty(), "{}", visitor.failed.join("\n"));
}

pub fn random(rng: &mut ChaCha8Rng, count: usize) -> Vec<f32> {
    (0..count).map(|_| (rng.next_u32() >> 8) as f32 / (1 << 23) as f32 - 1.0).collect()
}

/// Output and gradients of `(f(inputs) · direction).sum()` with respect to the inputs that
/// `tracked` names.
pub fn run(
    inputs: &[Vec<f32>],
    tracked: &[bool],
    f: &dyn Fn(&[Tensor<1>]) -> Tensor<1>,
) -> (Vec<f32>, Vec<Option<Vec<f32>>>) {
    let device = Device::flex().autodiff();
    let leaves: Vec<Tensor<1>> = inputs
        .iter()
        .zip(tracked)
        .map(|(data, &tracked)| {
            let data = TensorData::new(data.clone(), [data.len()]);
            let leaf = Tensor::from_data(data, &device);
            if tracked { leaf.require_grad() } else { leaf }
        })
        .collect();
    let output = f(&leaves);
    let values = to_vec(output.clone());
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let direction = TensorData::new(random(&mut rng, values.len()), [values.len()]);
    let gradients = (output * Tensor::from_data(direction, &device)).sum().backward();
    (values, leaves.iter().map(|leaf| leaf.grad(&gradients).map(to_vec)).collect())
}
