//! One training loop for every pocket network: resumable, averaged, guarded.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use burn::module::{Module, Param};
use burn::tensor::Tensor;
use craft_diffusion::guard::NanGuard;
use craft_diffusion::optimizer::{self, AdamW, AdamWConfig, GradMap};
use craft_diffusion::schedule::{LrShape, learning_rate};
use craft_nn::weights::{self, HostTensor, ParamMapper, TensorMap};

use crate::io::{read_tensors, write_tensors};
use crate::{BuildError, Options};

/// How a network is trained.
#[derive(Clone, Debug)]
pub(crate) struct Fit {
    /// Name in log lines and of the state file.
    pub(crate) name: &'static str,
    /// Updates.
    pub(crate) steps: usize,
    /// Peak learning rate; a short warm-up leads to it, half a cosine down from it.
    pub(crate) lr: f64,
    /// Decoupled weight decay.
    pub(crate) weight_decay: f64,
    /// Decay of the average whose weights are shipped.
    pub(crate) ema: f64,
    /// Updates between saved states.
    pub(crate) save_every: usize,
}

const MAX_GRAD_NORM: f64 = 1.0;

struct Put<'a>(&'a BTreeMap<String, Vec<f32>>);

impl ParamMapper for Put<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        match self.0.get(name) {
            Some(values) => weights::replace(param, values.clone()),
            None => param,
        }
    }
}

/// Trains `module` on `loss(module, step)`, which draws its batch from the step alone, and returns the
/// averaged network. A state file lets a stopped run continue with the same result.
pub(crate) fn fit<M: Module>(
    o: &Options,
    c: &Fit,
    mut module: M,
    mut loss: impl FnMut(&M, usize) -> Tensor<1>,
) -> Result<M, BuildError> {
    let path = o.work().join(format!("{}.state.safetensors", c.name));
    let mut optimizer = AdamW::new(
        AdamWConfig { weight_decay: c.weight_decay, ..AdamWConfig::default() },
        Some(c.ema),
    );
    let mut first = 0;
    if path.exists() {
        let mut state = read_tensors(&path)?;
        first = state.remove("step").map_or(0, |t| t.data[0] as usize);
        let (params, moments): (TensorMap, TensorMap) =
            state.into_iter().partition(|(name, _)| name.starts_with("p."));
        let params = params.into_iter().map(|(n, t)| (n[2..].to_owned(), t)).collect();
        module = weights::load(module, params)?;
        optimizer.restore(first, moments);
        tracing::info!("{}: continuing from step {first}", c.name);
    }
    let warmup = (c.steps / 20).clamp(1, 300);
    let mut guard = NanGuard::new(10);
    let start = Instant::now();
    let mut mean = 0.0;
    for step in first..c.steps {
        if let Err(stop) = o.check() {
            if step > first {
                save(&path, &module, &optimizer, step)?;
            }
            return Err(stop);
        }
        let lr = learning_rate(c.lr, LrShape::Cosine, warmup, step, c.steps);
        let value = loss(&module, step);
        let mut grads = GradMap::new();
        optimizer::collect(&module, value.backward(), &mut grads);
        let value = f64::from(weights::to_vec(value)[0]);
        let norm = optimizer::norm(&grads);
        if guard.admit(step, value, norm, &[])? {
            let scale = (MAX_GRAD_NORM / (norm + 1e-6)).min(1.0);
            module = optimizer.step(module, &grads, lr, scale);
        }
        mean = if step == first { value } else { 0.98 * mean + 0.02 * value };
        let done = step + 1;
        if done % 100 == 0 || done == c.steps {
            let seconds = start.elapsed().as_secs_f64();
            let left = seconds / (done - first) as f64 * (c.steps - done) as f64;
            tracing::info!(
                "{}: step {done}/{} loss {mean:.5} grad {norm:.3} {seconds:.0} s, {left:.0} s left",
                c.name,
                c.steps
            );
        }
        if done % c.save_every == 0 || done == c.steps {
            save(&path, &module, &optimizer, done)?;
        }
    }
    let averaged = optimizer.ema().cloned().unwrap_or_default();
    Ok(weights::map(module, &mut Put(&averaged)))
}

fn save<M: Module>(
    path: &Path,
    module: &M,
    optimizer: &AdamW,
    step: usize,
) -> Result<(), BuildError> {
    let mut state = optimizer.state();
    for (name, tensor) in weights::export(module) {
        state.insert(format!("p.{name}"), tensor);
    }
    state.insert("step".to_owned(), HostTensor { shape: vec![1], data: vec![step as f32] });
    write_tensors(path, state, false)
}
