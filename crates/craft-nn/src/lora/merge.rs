//! Adding adapters to weights.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::{Pair, Pairs};
use crate::weights::{self, ParamMapper};

impl Pair {
    /// Adds `strength` · scale · B A to a weight of `[out, in]` or `[out, in, kh, kw]`, row-major.
    pub fn add_to(&self, weight: &mut [f32], strength: f32) {
        let rank = self.rank();
        let width = self.down.data.len() / rank.max(1);
        if rank == 0 || width == 0 {
            return;
        }
        let factor = f64::from(strength) * f64::from(self.scale);
        let mut row = vec![0f64; width];
        for (out, b) in weight.chunks_exact_mut(width).zip(self.up.data.chunks_exact(rank)) {
            row.fill(0.0);
            for (b, a) in b.iter().zip(self.down.data.chunks_exact(width)) {
                row.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
            }
            for (w, delta) in out.iter_mut().zip(&row) {
                *w = (f64::from(*w) + factor * delta) as f32;
            }
        }
    }
}

struct Merge<'a>(&'a Pairs, f32);

impl ParamMapper for Merge<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(pair) = self.0.get(name) else { return param };
        let mut values = weights::to_vec(param.val());
        pair.add_to(&mut values, self.1);
        weights::replace(param, values)
    }
}

/// Merges pairs into a network's parameters; those without a pair stay as they are.
pub fn merge<M: Module>(module: M, pairs: &Pairs, strength: f32) -> M {
    weights::map(module, &mut Merge(pairs, strength))
}
