//! What a method that draws as it goes has drawn in an iteration, batch by batch on disk until the iteration
//! is over: a stop within it loses the batch at work and none of the training.

use std::path::{Path, PathBuf};

use craft_nn::weights::{HostTensor, TensorMap};

use crate::error::Result;
use craft_model::model::{read_tensors, write_tensors};

/// A folder beside the state of a training.
#[derive(Clone, Debug)]
pub(super) struct Shelf(PathBuf);

impl Shelf {
    pub(super) fn beside(state: &Path) -> Self {
        let name = state.file_name().unwrap_or_default().to_string_lossy();
        Self(state.with_file_name(format!("{name}-drawn")))
    }

    fn file(&self, iteration: usize, part: &str) -> PathBuf {
        self.0.join(format!("{iteration}-{part}.safetensors"))
    }

    pub(super) fn has(&self, iteration: usize, part: &str) -> bool {
        self.file(iteration, part).is_file()
    }

    /// What was kept, if it is there and whole.
    pub(super) fn read(&self, iteration: usize, part: &str) -> Option<TensorMap> {
        let path = self.file(iteration, part);
        path.is_file().then(|| read_tensors(&path).ok()).flatten()
    }

    /// Keeps a part. That of other iterations is removed.
    pub(super) fn keep(&self, iteration: usize, part: &str, tensors: &TensorMap) -> Result<()> {
        craft_store::atomic::create_dir(&self.0)?;
        let own = format!("{iteration}-");
        for path in craft_store::atomic::list(&self.0).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if !name.starts_with(&own) {
                let _ = craft_store::atomic::remove_file(&path);
            }
        }
        Ok(write_tensors(&self.file(iteration, part), tensors)?)
    }

    /// Removes everything, at the end of the training.
    pub(super) fn clear(&self) {
        let _ = craft_store::atomic::remove_tree(&self.0);
    }
}

/// Rows of one length as a tensor `[rows, length]`.
pub(super) fn stacked<'a>(rows: impl Iterator<Item = &'a [f32]>) -> HostTensor {
    let (mut count, mut data) = (0, Vec::new());
    for row in rows {
        count += 1;
        data.extend_from_slice(row);
    }
    HostTensor { shape: vec![count, data.len() / count.max(1)], data }
}

/// The rows of a tensor, if it has so many values.
pub(super) fn rows(
    tensors: &TensorMap,
    name: &str,
    [n, size]: [usize; 2],
) -> Option<Vec<Vec<f32>>> {
    let data = &tensors.get(name)?.data;
    if data.len() != n * size {
        return None;
    }
    Some(if size == 0 {
        vec![Vec::new(); n]
    } else {
        data.chunks_exact(size).map(<[f32]>::to_vec).collect()
    })
}
