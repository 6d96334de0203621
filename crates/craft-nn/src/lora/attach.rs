//! Low-rank factors attached to the weights of a network, for training.
//!
//! The factors are a Burn reparameterization: they travel with the parameter through copies,
//! devices and visits. Layers that can, [`crate::layers::Linear`] and [`crate::layers::Conv2d`],
//! compute
//! `W x + s · B (A x)` from the two factors and never form `B A`; every other use of the parameter
//! sees the merged weight.

use std::collections::BTreeMap;

use burn::module::{Module, Param, ParamId, Reparameterization, Reparameterizer};
use burn::tensor::{Tensor, TensorData};

use super::{Pair, Pairs};
use crate::ops;
use crate::weights::{self, HostTensor, ParamVisitor, TensorMap};

/// Endings of the names of the factors of a parameter.
const DOWN: &str = ".lora.down";
const UP: &str = ".lora.up";

/// The factors of one weight.
#[derive(Module, Debug)]
pub struct LowRank {
    /// A, `[rank, in]`; the window of a convolution is part of the second axis.
    down: Param<Tensor<2>>,
    /// B, `[out, rank]`.
    up: Param<Tensor<2>>,
    #[module(skip)]
    scale: f32,
}

impl Reparameterization for LowRank {
    const NAME: &'static str = "lora";

    fn apply<const D: usize>(&self, base: Tensor<D>) -> Tensor<D> {
        let change = self.up.val().matmul(self.down.val()) * self.scale;
        let shape = base.dims();
        base + change.reshape(shape)
    }
}

impl LowRank {
    /// The factors of a weight, if it has any.
    pub(crate) fn of<const D: usize>(weight: &Param<Tensor<D>>) -> Option<&Self> {
        weight.reparameterization()
    }

    /// `y + s · B (A x)` for `x` `[.., in]`.
    pub(crate) fn add_linear<const D: usize>(&self, y: Tensor<D>, x: Tensor<D>) -> Tensor<D> {
        let inner = ops::linear(x, self.down.val(), None) * self.scale;
        ops::add(y, ops::linear(inner, self.up.val(), None))
    }

    /// The same for a convolution of `x` `[N, in, H, W]` with a window of `kernel`.
    pub(crate) fn add_conv(
        &self,
        y: Tensor<4>,
        x: Tensor<4>,
        kernel: [usize; 2],
        stride: usize,
        padding: [usize; 4],
    ) -> Tensor<4> {
        let input = x.dims()[1];
        let (down, up) = (self.down.val(), self.up.val());
        let ([rank, _], [output, _]) = (down.dims(), up.dims());
        let down = down.reshape([rank, input, kernel[0], kernel[1]]);
        let inner = ops::conv2d(x, down, None, stride, padding) * self.scale;
        ops::add(y, ops::conv2d(inner, up.reshape([output, rank, 1, 1]), None, 1, [0; 4]))
    }
}

struct Attach<'a> {
    pairs: &'a Pairs,
    names: BTreeMap<ParamId, String>,
}

impl Reparameterizer for Attach<'_> {
    type Reparam = LowRank;

    fn reparameterize<const D: usize>(
        &mut self,
        _path: &str,
        param: Param<Tensor<D>>,
    ) -> (Param<Tensor<D>>, Option<LowRank>) {
        let device = param.lazy_device();
        let pair = self.names.get(&param.id).and_then(|name| self.pairs.get(name));
        let factor = |t: &HostTensor| {
            let first = t.shape.first().copied().unwrap_or(0);
            let shape = [first, t.data.len() / first.max(1)];
            Param::from_data(TensorData::new(t.data.clone(), shape), &device)
        };
        let factors = pair.map(|pair| LowRank {
            down: factor(&pair.down),
            up: factor(&pair.up),
            scale: pair.scale,
        });
        (param.set_require_grad(false), factors)
    }
}

#[derive(Default)]
struct Names(BTreeMap<ParamId, String>);

impl ParamVisitor for Names {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        self.0.insert(param.id, name.to_owned());
    }
}

/// Attaches factors to the parameters that they are named after and freezes everything else. On a
/// device with automatic differentiation the factors, and only they, get gradients.
///
/// The shapes of the pairs must be those of the parameters, as [`super::Targets::fresh`] and
/// [`super::Adapter::from_tensors`] see to.
pub fn attach<M: Module>(module: M, pairs: &Pairs) -> M {
    let mut names = Names::default();
    weights::visit(&module, &mut names);
    module.apply_reparameterization(Attach { pairs, names: names.0 })
}

/// Adds the attached factors into the weights and removes them.
pub fn detach_merged<M: Module>(module: M) -> M {
    module.materialize()
}

/// Whether a name is that of an attached factor rather than of a network's own parameter.
pub fn is_factor(name: &str) -> bool {
    name.ends_with(DOWN) || name.ends_with(UP)
}

/// The pairs among the tensors of a network with attached factors, as [`weights::export`] gives
/// them.
pub fn pairs(tensors: &TensorMap, scale: f32) -> Pairs {
    let mut out = Pairs::new();
    for (name, down) in tensors {
        let Some(parameter) = name.strip_suffix(DOWN) else { continue };
        let (Some(base), Some(up)) =
            (tensors.get(parameter), tensors.get(&format!("{parameter}{UP}")))
        else {
            continue;
        };
        let rank = down.shape[0];
        let window = |first: [usize; 2], tail: Vec<usize>| [first.to_vec(), tail].concat();
        let tail = base.shape[2..].to_vec();
        let ones = vec![1; tail.len()];
        let down =
            HostTensor { shape: window([rank, base.shape[1]], tail), data: down.data.clone() };
        let up = HostTensor { shape: window([base.shape[0], rank], ones), data: up.data.clone() };
        out.insert(parameter.to_owned(), Pair { down, up, scale });
    }
    out
}
