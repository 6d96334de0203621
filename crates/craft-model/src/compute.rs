//! Where models compute: a device by the name that the command line has for it.

use burn::tensor::Device;

/// Kinds of devices that this build computes on.
pub const KINDS: [&str; 1] = ["cpu"];
/// Kinds that need a feature of their own.
const OTHERS: [&str; 5] = ["cuda", "rocm", "metal", "vulkan", "wgpu"];

/// A device. A command gets one and hands it on; nothing below chooses its own.
#[derive(Clone, Debug)]
pub struct Compute {
    kind: &'static str,
    device: Device,
}

impl Compute {
    /// The processor.
    pub fn cpu() -> Self {
        Self { kind: "cpu", device: Device::flex() }
    }

    /// The device of a name, such as `cpu`, or `cuda:1` for the second of a kind.
    ///
    /// # Errors
    /// When there is no such device; the message lists those that are.
    pub fn of_name(name: &str) -> Result<Self, String> {
        if name == "cpu" {
            return Ok(Self::cpu());
        }
        let kind = name.split(':').next().unwrap_or_default();
        if OTHERS.contains(&kind) {
            return Err(format!(
                "--device {name}: this build computes on `{}` only; a GPU backend is a cargo feature of its name (`cargo build --release --features {kind}`), which this version does not have yet",
                KINDS.join("`, `")
            ));
        }
        Err(format!(
            "--device {name}: there is no such device; expected `{}`, the only one of this build",
            KINDS.join("`, `")
        ))
    }

    /// Its kind, which a run keeps: `cpu`.
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// What tensors are made on.
    pub fn device(&self) -> &Device {
        &self.device
    }
}
