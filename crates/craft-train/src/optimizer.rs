//! AdamW over named parameters with host state (Loshchilov & Hutter 2019; PyTorch's update order),
//! gradient collection with accumulation, clipping by global norm, exponential moving average.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{DType, Gradients, Tensor};
use craft_nn::weights::{self, HostTensor, ParamMapper, ParamVisitor, TensorMap};

/// Gradients by parameter name.
pub type GradMap = BTreeMap<String, Vec<f32>>;

struct Collect<'a> {
    grads: &'a mut Gradients,
    into: &'a mut GradMap,
}

impl ParamVisitor for Collect<'_> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        let Some(grad) = param.val().grad_remove(self.grads) else { return };
        let grad = weights::to_vec(grad);
        match self.into.get_mut(name) {
            Some(sum) => sum.iter_mut().zip(&grad).for_each(|(s, g)| *s += g),
            None => {
                self.into.insert(name.to_owned(), grad);
            }
        }
    }
}

/// Adds the gradients of a backward pass to `into`. Parameters without a gradient are left out.
pub fn collect<M: Module>(module: &M, mut grads: Gradients, into: &mut GradMap) {
    weights::visit(module, &mut Collect { grads: &mut grads, into });
}

/// Euclidean norm over all gradients.
pub fn norm(grads: &GradMap) -> f64 {
    grads.values().map(|g| craft_kernels::sum_squares(g)).sum::<f64>().sqrt()
}

/// Settings of AdamW; the defaults are PyTorch's but for the weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 }
    }
}

/// AdamW with its moments, an optional exponential moving average of the parameters, and f32 master
/// copies of parameters that are kept in bf16.
#[derive(Clone, Debug, Default)]
pub struct AdamW {
    config: AdamWConfig,
    /// Updates done.
    pub steps: usize,
    moments: BTreeMap<String, (Vec<f32>, Vec<f32>)>,
    ema_decay: Option<f64>,
    ema: BTreeMap<String, Vec<f32>>,
    masters: BTreeMap<String, Vec<f32>>,
}

struct Update<'a> {
    optimizer: &'a mut AdamW,
    grads: &'a GradMap,
    lr: f64,
    scale: f64,
}

impl ParamMapper for Update<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.get(name) else { return param };
        let c = self.optimizer.config;
        let t = self.optimizer.steps as f64;
        let step = craft_kernels::AdamW {
            lr: self.lr as f32,
            beta1: c.beta1 as f32,
            beta2: c.beta2 as f32,
            eps: c.eps as f32,
            weight_decay: c.weight_decay as f32,
            bias_correction1: (1.0 - c.beta1.powf(t)) as f32,
            bias_correction2: (1.0 - c.beta2.powf(t)) as f32,
            grad_scale: self.scale as f32,
        };
        let optimizer = &mut *self.optimizer;
        let (m, v) = optimizer
            .moments
            .entry(name.to_owned())
            .or_insert_with(|| (vec![0.0; grad.len()], vec![0.0; grad.len()]));
        let narrow = param.base().dtype() == DType::BF16;
        weights::edit(param, |values| {
            if let Some(master) = optimizer.masters.remove(name) {
                *values = master;
            }
            craft_kernels::adamw_step(values, grad, m, v, &step);
            if let Some(decay) = optimizer.ema_decay {
                // Warm-up of the average, so that it does not remember the start for long.
                let decay = decay.min((1.0 + t) / (10.0 + t)) as f32;
                let ema = optimizer.ema.entry(name.to_owned()).or_insert_with(|| values.clone());
                ema.iter_mut().zip(values.iter()).for_each(|(e, p)| *e += (1.0 - decay) * (p - *e));
            }
            if narrow {
                optimizer.masters.insert(name.to_owned(), values.clone());
            }
        })
    }
}

/// Master copies of the parameters that `rounded` keeps in bf16 and trains, from the exact values.
struct Masters<'a> {
    exact: TensorMap,
    into: &'a mut BTreeMap<String, Vec<f32>>,
}

impl ParamVisitor for Masters<'_> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.dtype() == DType::BF16
            && value.is_require_grad()
            && let Some(tensor) = self.exact.remove(name)
        {
            self.into.insert(name.to_owned(), tensor.data);
        }
    }
}

impl AdamW {
    /// A fresh optimizer.
    pub fn new(config: AdamWConfig, ema_decay: Option<f64>) -> Self {
        Self { config, ema_decay, ..Self::default() }
    }

    /// One update with gradients multiplied by `scale`.
    pub fn step<M: Module>(&mut self, module: M, grads: &GradMap, lr: f64, scale: f64) -> M {
        self.steps += 1;
        weights::map(module, &mut Update { optimizer: self, grads, lr, scale })
    }

    /// Rounds the weights of a network to bf16 and keeps f32 master copies of those that are trained,
    /// which updates go to.
    pub fn to_bf16<M: Module>(&mut self, module: M) -> M {
        let exact = weights::export(&module);
        let rounded = weights::to_bf16(module);
        weights::visit(&rounded, &mut Masters { exact, into: &mut self.masters });
        rounded
    }

    /// The parameters of a network in f32: master copies where there are some.
    pub fn export<M: Module>(&self, module: &M) -> TensorMap {
        let mut tensors = weights::export(module);
        for (name, master) in &self.masters {
            if let Some(tensor) = tensors.get_mut(name) {
                tensor.data.clone_from(master);
            }
        }
        tensors
    }

    /// The averaged parameters (those never updated are left out); `None` without an average.
    pub fn ema(&self) -> Option<&BTreeMap<String, Vec<f32>>> {
        self.ema_decay.map(|_| &self.ema)
    }

    /// Everything that a resumed run needs, as tensors `m.…`, `v.…`, `ema.…`.
    pub fn state(&self) -> TensorMap {
        let flat = |data: &Vec<f32>| HostTensor { shape: vec![data.len()], data: data.clone() };
        let mut out = TensorMap::new();
        for (name, (m, v)) in &self.moments {
            out.insert(format!("m.{name}"), flat(m));
            out.insert(format!("v.{name}"), flat(v));
        }
        for (name, e) in &self.ema {
            out.insert(format!("ema.{name}"), flat(e));
        }
        out
    }

    /// Restores what [`AdamW::state`] gave.
    pub fn restore(&mut self, steps: usize, state: TensorMap) {
        self.steps = steps;
        self.moments.clear();
        self.ema.clear();
        for (name, tensor) in state {
            if let Some(name) = name.strip_prefix("m.") {
                self.moments.entry(name.to_owned()).or_default().0 = tensor.data;
            } else if let Some(name) = name.strip_prefix("v.") {
                self.moments.entry(name.to_owned()).or_default().1 = tensor.data;
            } else if let Some(name) = name.strip_prefix("ema.") {
                self.ema.insert(name.to_owned(), tensor.data);
            }
        }
    }
}
