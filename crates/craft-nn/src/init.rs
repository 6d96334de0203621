//! Seeded initialisation of parameters, with PyTorch's default distributions.

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

/// Where new parameters live and what they start from.
///
/// Parameters are drawn in the order in which layers are built, so a seed fixes a network.
#[derive(Debug)]
pub struct Init {
    device: Device,
    rng: Option<ChaCha8Rng>,
}

impl Init {
    /// Random initialisation from a seed.
    pub fn seeded(seed: u64, device: &Device) -> Self {
        Self { device: device.clone(), rng: Some(ChaCha8Rng::seed_from_u64(seed)) }
    }

    /// Zeros everywhere, for networks whose weights are loaded right after.
    pub fn zeros(device: &Device) -> Self {
        Self { device: device.clone(), rng: None }
    }

    fn param<const D: usize>(&self, data: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        Param::from_tensor(Tensor::from_data(TensorData::new(data, shape), &self.device))
    }

    /// Draws a parameter's values, or leaves it without any until it is used: a network whose
    /// weights are loaded takes no memory before.
    fn draw<const D: usize>(
        &mut self,
        shape: [usize; D],
        f: impl Fn(&mut ChaCha8Rng) -> f32,
    ) -> Param<Tensor<D>> {
        if let Some(rng) = &mut self.rng {
            let data = (0..shape.iter().product()).map(|_| f(rng)).collect();
            return self.param(data, shape);
        }
        self.later(shape, 0.0)
    }

    /// A parameter whose values are made when they are first used.
    fn later<const D: usize>(&self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        let make = move |device: &Device, tracked: bool| {
            let tensor = Tensor::full(shape, value, device);
            if tracked { tensor.require_grad() } else { tensor }
        };
        Param::uninitialized(ParamId::new(), make, self.device.clone(), true, shape.into())
    }

    /// Uniform on `±bound`.
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<D>> {
        self.draw(shape, |rng| (2.0 * unit(rng) - 1.0) * bound)
    }

    /// Normal with mean 0 and the given standard deviation.
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Param<Tensor<D>> {
        self.draw(shape, |rng| {
            let radius = (-2.0 * libm::log(1.0 - f64::from(unit(rng)))).sqrt();
            let angle = std::f64::consts::TAU * f64::from(unit(rng));
            (radius * libm::cos(angle)) as f32 * std
        })
    }

    /// One value everywhere. With [`Init::zeros`] too, so that affine maps start as they should.
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        match self.rng {
            Some(_) => self.param(vec![value; shape.iter().product()], shape),
            None => self.later(shape, value),
        }
    }
}

/// Uniform on `[0, 1)` with 24 bits.
fn unit(rng: &mut ChaCha8Rng) -> f32 {
    (rng.next_u32() >> 8) as f32 / (1u32 << 24) as f32
}
