//! BLIP's encoders as ImageReward uses them: a vision transformer, and a BERT whose every layer
//! also looks at the picture (github.com/salesforce/BLIP, `models/vit.py`, `models/med.py`).
//!
//! Fields carry the names of the original files.

mod text;
mod vision;

pub use text::{BlipTextConfig, BlipTextModel};
pub use vision::{BlipVisionConfig, BlipVisionModel};
