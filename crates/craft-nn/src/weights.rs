//! Parameters by name: reading them out of a network and putting them in, strictly.
//!
//! Names are those of PyTorch: the path of fields, `.0.` for members of a list. A field that ends
//! in
//! `_at_<n>` stands for `.<n>`, for PyTorch lists whose members have different types
//! (`net_at_0` is `net.0`). Variants of an enum leave no trace in a name.

use std::collections::BTreeMap;

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData};
use thiserror::Error;

use crate::config::shorten;
use crate::lora;

mod walk;

pub use walk::{ParamMapper, ParamVisitor, map, visit};

/// A tensor on the host: row-major f32 values with their shape.
#[derive(Clone, Debug, PartialEq)]
pub struct HostTensor {
    /// Sizes of the axes, outermost first.
    pub shape: Vec<usize>,
    /// Values, row-major.
    pub data: Vec<f32>,
}

/// Host tensors by PyTorch name, sorted.
pub type TensorMap = BTreeMap<String, HostTensor>;

/// Why tensors do not fit a network.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum WeightError {
    /// Names of the network that the file lacks, or names of the file that the network lacks.
    #[error(
        "the weights do not match the network: {}{}{}",
        list("missing", .missing),
        list("not used by the network", .unused),
        "; expected exactly the tensors of the network that config.json describes: use the weights and the config of one model"
    )]
    Names {
        /// In the network, not in the file.
        missing: Vec<String>,
        /// In the file, not in the network.
        unused: Vec<String>,
    },
    /// A tensor of another shape.
    #[error(
        "tensor {name} has shape {found:?}, but the network that config.json describes needs {expected:?}"
    )]
    Shape {
        /// The tensor.
        name: String,
        /// The shape in the file.
        found: Vec<usize>,
        /// The shape in the network.
        expected: Vec<usize>,
    },
}

fn list(what: &str, names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown = names.iter().take(5).map(|name| shorten(name)).collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(5);
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!(" {} tensors {what} ({shown}{tail})", names.len())
}

#[derive(Default)]
struct Shapes(BTreeMap<String, Vec<usize>>);

impl ParamVisitor for Shapes {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        // Asking for the value would make one if there is none yet.
        self.0.insert(name.to_owned(), param.lazy_shape().to_vec());
    }
}

/// Names and shapes of all parameters.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    let mut visitor = Shapes::default();
    visit(module, &mut visitor);
    visitor.0
}

#[derive(Default)]
struct Export(TensorMap);

impl ParamVisitor for Export {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        let value = param.val();
        let shape = value.dims().to_vec();
        let data = to_vec(value);
        self.0.insert(name.to_owned(), HostTensor { shape, data });
    }
}

/// Copies all parameters to the host.
pub fn export<M: Module>(module: &M) -> TensorMap {
    let mut visitor = Export::default();
    visit(module, &mut visitor);
    visitor.0
}

struct ExportSome<F>(F, TensorMap);

impl<F: Fn(&str) -> bool> ParamVisitor for ExportSome<F> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        let shape = param.lazy_shape().to_vec();
        let data = if (self.0)(name) { to_vec(param.val()) } else { Vec::new() };
        self.1.insert(name.to_owned(), HostTensor { shape, data });
    }
}

/// The shapes of all parameters, and the values of those that `wanted` names; the others have none.
pub fn export_some<M: Module>(module: &M, wanted: impl Fn(&str) -> bool) -> TensorMap {
    let mut visitor = ExportSome(wanted, TensorMap::new());
    visit(module, &mut visitor);
    visitor.1
}

struct Load<R, E> {
    read: R,
    narrow: bool,
    error: Option<E>,
}

impl<R: FnMut(&str) -> Result<Vec<f32>, E>, E> ParamMapper for Load<R, E> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        match (self.read)(name) {
            Ok(data) if self.narrow && is_narrow::<D>(name) => round(fill(param, data)),
            Ok(data) => fill(param, data),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

/// [`replace`], without making values first where the parameter has none yet.
fn fill<const D: usize>(param: Param<Tensor<D>>, data: Vec<f32>) -> Param<Tensor<D>> {
    if param.is_initialized() {
        return replace(param, data);
    }
    let shape: [usize; D] = param.lazy_shape().dims();
    let value = Tensor::from_data(TensorData::new(data, shape), &param.lazy_device());
    let mut filled = Param::from_tensor(value);
    filled.id = param.id;
    filled
}

/// Replaces a parameter's values, keeping its identity, shape, device and gradient setting.
///
/// # Panics
/// When the number of values is not that of the parameter.
pub fn replace<const D: usize>(param: Param<Tensor<D>>, data: Vec<f32>) -> Param<Tensor<D>> {
    swap(param, |_| data)
}

/// Computes a parameter's new values from the old ones, keeping its identity, shape, device, number
/// format and gradient setting. No copy is made where nothing else holds the tensor.
///
/// # Panics
/// When the number of values is not that of the parameter.
pub fn edit<const D: usize>(
    param: Param<Tensor<D>>,
    f: impl FnOnce(&mut Vec<f32>),
) -> Param<Tensor<D>> {
    swap(param, |old| {
        let mut values = to_vec(old);
        f(&mut values);
        values
    })
}

fn swap<const D: usize>(
    param: Param<Tensor<D>>,
    new: impl FnOnce(Tensor<D>) -> Vec<f32>,
) -> Param<Tensor<D>> {
    param.map(|old| {
        let (tracked, device) = (old.is_require_grad(), old.device());
        let (shape, format) = (old.dims(), old.dtype());
        let value = Tensor::<D>::from_data(TensorData::new(new(old), shape), &device);
        let value = if format == DType::F32 { value } else { value.cast(format) };
        if tracked { value.require_grad() } else { value }
    })
}

/// Whether [`to_bf16`] rounds a parameter.
fn is_narrow<const D: usize>(name: &str) -> bool {
    matches!(D, 2 | 4) && !name.ends_with("embedding.weight") && !lora::is_factor(name)
}

fn round<const D: usize>(param: Param<Tensor<D>>) -> Param<Tensor<D>> {
    param.map(|old| {
        let tracked = old.is_require_grad();
        let value = old.detach().set_require_grad(false).cast(DType::BF16);
        if tracked { value.require_grad() } else { value }
    })
}

struct ToBf16;

impl ParamMapper for ToBf16 {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if is_narrow::<D>(name) { round(param) } else { param }
    }
}

/// Rounds the weights of linear maps and convolutions to bf16, where they take half the memory.
/// They become f32 again for each use; norms, biases, embeddings and low-rank factors stay f32.
pub fn to_bf16<M: Module>(module: M) -> M {
    map(module, &mut ToBf16)
}

#[derive(Default)]
struct Trainable(bool);

impl ParamVisitor for Trainable {
    fn visit<const D: usize>(&mut self, _: &str, param: &Param<Tensor<D>>) {
        self.0 |= param.val().is_require_grad();
    }
}

/// Whether any parameter of a network gets a gradient.
pub fn is_trainable<M: Module>(module: &M) -> bool {
    let mut visitor = Trainable::default();
    visit(module, &mut visitor);
    visitor.0
}

/// Compares names and shapes of a network with those of a file.
///
/// # Errors
/// When names are missing, unused, or a shape differs.
pub fn check(
    network: &BTreeMap<String, Vec<usize>>,
    file: &BTreeMap<String, Vec<usize>>,
) -> Result<(), WeightError> {
    let missing: Vec<String> = network.keys().filter(|n| !file.contains_key(*n)).cloned().collect();
    let unused: Vec<String> = file.keys().filter(|n| !network.contains_key(*n)).cloned().collect();
    if !missing.is_empty() || !unused.is_empty() {
        return Err(WeightError::Names { missing, unused });
    }
    match network.iter().find(|(name, expected)| file[*name] != **expected) {
        None => Ok(()),
        Some((name, expected)) => Err(WeightError::Shape {
            name: name.clone(),
            found: file[name].clone(),
            expected: expected.clone(),
        }),
    }
}

/// Puts tensors into a network.
///
/// # Errors
/// When names are missing, unused, or a shape differs.
pub fn load<M: Module>(module: M, mut tensors: TensorMap) -> Result<M, WeightError> {
    let found = tensors.iter().map(|(name, t)| (name.clone(), t.shape.clone())).collect();
    load_with(module, &found, |name| {
        let HostTensor { shape, data } =
            tensors.remove(name).unwrap_or(HostTensor { shape: vec![], data: vec![] });
        if data.len() == shape.iter().product::<usize>() {
            return Ok(data);
        }
        let (name, found) = (name.to_owned(), vec![data.len()]);
        Err(WeightError::Shape { name, found, expected: shape })
    })
}

/// Puts tensors into a network that are read one at a time, so that a single one is in memory
/// twice.
/// `found`: names and shapes of all that can be read.
///
/// # Errors
/// When names are missing, unused, or a shape differs, before anything is read; or the first error
/// of
/// `read`.
///
/// # Panics
/// When `read` gives another number of values than the shape has.
pub fn load_with<M: Module, E: From<WeightError>>(
    module: M,
    found: &BTreeMap<String, Vec<usize>>,
    read: impl FnMut(&str) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    load_as(module, found, false, read)
}

/// [`load_with`]; with `narrow` followed by [`to_bf16`], without all values ever being in memory as
/// f32.
///
/// # Errors
/// The same.
///
/// # Panics
/// The same.
pub fn load_as<M: Module, E: From<WeightError>>(
    module: M,
    found: &BTreeMap<String, Vec<usize>>,
    narrow: bool,
    read: impl FnMut(&str) -> Result<Vec<f32>, E>,
) -> Result<M, E> {
    check(&shapes(&module), found)?;
    let mut loader = Load { read, narrow, error: None };
    let module = map(module, &mut loader);
    match loader.error {
        None => Ok(module),
        Some(error) => Err(error),
    }
}

/// Copies a float tensor to the host.
pub fn to_vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let data = tensor.into_data();
    match data.try_into_vec_as::<f32>() {
        Ok(values) => values,
        Err(error) => unreachable!("data converted to f32 is f32: {error:?}"),
    }
}
