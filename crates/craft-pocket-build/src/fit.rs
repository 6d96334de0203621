//! Training of every pocket network: resumable, averaged, guarded.

use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::Module;
use burn::tensor::Tensor;
use craft_core::recipe::LrSchedule;
use craft_nn::weights::{self, HostTensor, TensorMap};
use craft_train::fit::{self, Pass, State, Step, Task};
use craft_train::networks::averaged;
use craft_train::optimizer::{self, AdamWConfig};
use craft_train::settings::Settings;
use craft_train::{Result as TrainResult, TrainError};

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

impl Fit {
    fn settings(&self) -> Settings {
        Settings {
            steps: self.steps,
            learning_rate: self.lr,
            shape: LrSchedule::Cosine,
            warmup: (self.steps / 20).clamp(1, 300),
            max_grad_norm: 1.0,
            optimizer: AdamWConfig { weight_decay: self.weight_decay, ..AdamWConfig::default() },
            ema_decay: Some(self.ema),
            max_nonfinite_steps: 10,
        }
    }
}

/// A loss that draws its batch from the step alone.
struct OfLoss<'a, F> {
    options: &'a Options,
    loss: F,
}

impl<M: Module, F: FnMut(&M, usize) -> Tensor<1>> Task<M> for OfLoss<'_, F> {
    fn pass(&mut self, step: usize, module: &M) -> TrainResult<Pass> {
        self.options.check().map_err(|_| TrainError::Interrupted)?;
        let value = (self.loss)(module, step);
        let mut pass = Pass::default();
        optimizer::collect(module, value.backward(), &mut pass.grads);
        pass.loss = f64::from(weights::to_vec(value)[0]);
        Ok(pass)
    }
}

/// Writes a log line now and then, and the state.
struct Log<'a> {
    fit: &'a Fit,
    path: PathBuf,
    first: usize,
    start: Instant,
    mean: f64,
}

impl<M: Module> fit::Watch<M> for Log<'_> {
    fn stepped(&mut self, state: &State<M>, step: &Step) -> TrainResult<()> {
        let (done, first) = (state.done, self.first);
        self.mean =
            if step.step == first { step.loss } else { 0.98 * self.mean + 0.02 * step.loss };
        if done % 100 == 0 || done == self.fit.steps {
            let seconds = self.start.elapsed().as_secs_f64();
            let left = seconds / (done - first) as f64 * (self.fit.steps - done) as f64;
            tracing::info!(
                "{}: step {done}/{} loss {:.5} grad {:.3} {seconds:.0} s, {left:.0} s left",
                self.fit.name,
                self.fit.steps,
                self.mean,
                step.grad_norm,
            );
        }
        Ok(())
    }

    fn due(&self, done: usize) -> bool {
        done.is_multiple_of(self.fit.save_every)
    }

    fn save(&mut self, state: &State<M>) -> TrainResult<()> {
        save(&self.path, state).map_err(|error| TrainError::Other(Box::new(error)))
    }
}

/// Trains `module` on `loss(module, step)`, which draws its batch from the step alone, and returns the
/// averaged network. A state file lets a stopped run continue with the same result.
pub(crate) fn fit<M: Module>(
    o: &Options,
    c: &Fit,
    mut module: M,
    loss: impl FnMut(&M, usize) -> Tensor<1>,
) -> Result<M, BuildError> {
    let path = o.work().join(format!("{}.state.safetensors", c.name));
    let settings = c.settings();
    let mut optimizer = settings.new_optimizer();
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
    let mut state = State::resumed(module, optimizer, &settings, first);
    let mut task = OfLoss { options: o, loss };
    let mut log = Log { fit: c, path, first, start: Instant::now(), mean: 0.0 };
    fit::fit(&mut state, &settings, &mut task, &mut log)?;
    let (module, optimizer) = state.into_parts();
    Ok(averaged(module, &optimizer))
}

fn save<M: Module>(path: &Path, state: &State<M>) -> Result<(), BuildError> {
    let mut tensors = state.optimizer.state();
    for (name, tensor) in weights::export(state.module()) {
        tensors.insert(format!("p.{name}"), tensor);
    }
    let step = HostTensor { shape: vec![1], data: vec![state.done as f32] };
    tensors.insert("step".to_owned(), step);
    write_tensors(path, tensors, false)
}
