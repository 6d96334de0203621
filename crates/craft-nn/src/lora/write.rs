//! The names under which adapters are written.

use super::{Adapter, Component, KohyaNames};
use crate::weights::{HostTensor, TensorMap};

impl Adapter {
    /// Tensors in the keys of sd-scripts: `lora_unet_….lora_down.weight`, `.lora_up.weight`,
    /// `.alpha`.
    pub fn to_kohya(&self, names: &KohyaNames) -> TensorMap {
        self.write(|component, module, part| {
            let name = names.module(component, module);
            Some(format!("{name}.{}", ["lora_down.weight", "lora_up.weight", "alpha"][part]))
        })
    }

    /// Tensors in diffusers' names: `unet.….lora_A.weight`, `.lora_B.weight`. They have no place
    /// for alpha, so that readers take alpha = rank: the scale is multiplied into B.
    pub fn to_diffusers(&self) -> TensorMap {
        let mut folded = self.clone();
        for pair in folded.components.values_mut().flat_map(|pairs| pairs.values_mut()) {
            let scale = std::mem::replace(&mut pair.scale, 1.0);
            pair.up.data.iter_mut().for_each(|x| *x *= scale);
        }
        folded.write(|component, module, part| {
            let ending = ["lora_A.weight", "lora_B.weight"].get(part)?;
            Some(format!("{}.{module}.{ending}", component.folder()))
        })
    }

    fn write(&self, name: impl Fn(Component, &str, usize) -> Option<String>) -> TensorMap {
        let mut out = TensorMap::new();
        for (component, pairs) in &self.components {
            for (parameter, pair) in pairs {
                let module = parameter.strip_suffix(".weight").unwrap_or(parameter);
                let alpha = pair.scale * pair.rank() as f32;
                let alpha = HostTensor { shape: vec![], data: vec![alpha] };
                for (part, tensor) in [&pair.down, &pair.up, &alpha].into_iter().enumerate() {
                    if let Some(name) = name(*component, module, part) {
                        out.insert(name, tensor.clone());
                    }
                }
            }
        }
        out
    }
}
