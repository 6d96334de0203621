//! Number formats of what is exported.

use std::collections::BTreeMap;
use std::path::Path;

use craft_store::raw::{Format as Number, Raw, RawReader};
use craft_store::weights::{self, DIFFUSERS, TRANSFORMERS};
use half::{bf16, f16};

use crate::error::{ModelError, Result};

/// A choice of number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Dtype {
    /// That of the base model, tensor by tensor.
    #[default]
    Base,
    /// 32 bits.
    F32,
    /// 16 bits of IEEE.
    F16,
    /// 16 bits with the range of 32.
    Bf16,
}

/// Folders of a model with weights of their own.
pub const COMPONENTS: [(&str, weights::Stem); 4] = [
    ("unet", DIFFUSERS),
    ("text_encoder", TRANSFORMERS),
    ("text_encoder_2", TRANSFORMERS),
    ("vae", DIFFUSERS),
];

/// The number format of each tensor of a model that is written.
pub struct Formats {
    choice: Dtype,
    /// Of the base model, by folder and name.
    base: BTreeMap<(String, String), Number>,
}

impl Formats {
    /// The formats that a choice stands for, with this base model.
    ///
    /// # Errors
    /// When the base model's weights cannot be read.
    pub fn of(choice: Dtype, base_dir: &Path) -> Result<Self> {
        let mut base = BTreeMap::new();
        for (folder, stem) in COMPONENTS {
            let dir = base_dir.join(folder);
            if !dir.is_dir() || choice != Dtype::Base {
                continue;
            }
            let reader = RawReader::open(&weights::find(&dir, stem)?)?;
            for name in reader.shapes().into_keys() {
                let format = reader.format(&name).map(writable);
                base.extend(format.map(|format| ((folder.to_owned(), name), format)));
            }
        }
        Ok(Self { choice, base })
    }

    /// The format of a tensor that a folder has in another one. Whole numbers stay what they are.
    pub fn wanted(&self, folder: &str, name: &str, now: Number) -> Number {
        if !is_float(now) {
            return now;
        }
        match self.choice {
            Dtype::F32 => Number::F32,
            Dtype::F16 => Number::F16,
            Dtype::Bf16 => Number::BF16,
            Dtype::Base => {
                let key = (folder.to_owned(), name.to_owned());
                self.base.get(&key).copied().unwrap_or_else(|| writable(now))
            }
        }
    }

    /// The format of a LoRA: what most tensors of the base model's denoiser have.
    pub fn of_factors(&self) -> Number {
        let mut counts: BTreeMap<&str, (usize, Number)> = BTreeMap::new();
        for ((folder, _), format) in &self.base {
            if folder == "unet" && is_float(*format) {
                counts.entry(name(*format)).or_insert((0, *format)).0 += 1;
            }
        }
        let most = counts.into_values().max_by_key(|(count, _)| *count);
        self.wanted("", "", most.map_or(Number::F32, |(_, format)| format))
    }
}

/// The format that a tensor is written in where its own is not: those of 8 bits are widened to 16.
fn writable(format: Number) -> Number {
    match format {
        Number::F64 => Number::F32,
        Number::F32 | Number::F16 | Number::BF16 => format,
        other if is_float(other) => Number::F16,
        other => other,
    }
}

fn is_float(format: Number) -> bool {
    let text = format!("{format:?}");
    text.starts_with('F') || text.starts_with("BF")
}

/// The name of a format as people write it.
pub fn name(format: Number) -> &'static str {
    match format {
        Number::F16 => "f16",
        Number::BF16 => "bf16",
        Number::F32 => "f32",
        _ => "other",
    }
}

/// Values in a number format, little-endian.
///
/// # Errors
/// When a finite value is too large for it; the message does not name the tensor.
pub fn bytes(values: &[f32], format: Number) -> std::result::Result<Vec<u8>, String> {
    Ok(match format {
        Number::F16 => {
            let large = |x: &&f32| x.is_finite() && f16::from_f32(**x).is_infinite();
            if let Some(x) = values.iter().find(large) {
                return Err(format!(
                    "{x} is too large for f16; expected at most 65504: choose --dtype bf16 or f32"
                ));
            }
            values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()
        }
        Number::BF16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|x| x.to_le_bytes()).collect(),
    })
}

/// What a value is after it was written in a format and read back.
pub fn rounded(value: f32, format: Number) -> f32 {
    match format {
        Number::F16 => f16::from_f32(value).to_f32(),
        Number::BF16 => bf16::from_f32(value).to_f32(),
        _ => value,
    }
}

/// A tensor in another number format.
///
/// # Errors
/// When it cannot be read or a value is too large.
pub fn convert(raw: Raw, to: Number, file: &Path, name: &str) -> Result<Raw> {
    if raw.format == to {
        return Ok(raw);
    }
    let about = |message: String| ModelError::Input {
        path: file.to_owned(),
        message: format!("tensor `{name}`: {message}"),
    };
    let values = raw.to_f32().map_err(about)?;
    let bytes = bytes(&values, to).map_err(about)?;
    Ok(Raw { shape: raw.shape, format: to, bytes })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_as_they_are_written() {
        let values = [1.0f32, 1.0 / 3.0, -70.01, 1e-7];
        for format in [Number::F32, Number::F16, Number::BF16] {
            let raw = Raw { shape: vec![4], format, bytes: bytes(&values, format).unwrap() };
            let back = raw.to_f32().unwrap();
            for (a, b) in values.iter().zip(back) {
                assert_eq!(rounded(*a, format), b);
            }
        }
        assert!(bytes(&[1e5], Number::F16).unwrap_err().contains("bf16"));
        assert!(bytes(&[1e5], Number::BF16).is_ok());
    }

    #[test]
    fn eight_bits_are_widened_and_whole_numbers_stay() {
        assert_eq!(writable(Number::F8_E4M3), Number::F16);
        let formats = Formats { choice: Dtype::F16, base: BTreeMap::new() };
        assert_eq!(formats.wanted("unet", "x", Number::I64), Number::I64);
        assert_eq!(formats.wanted("unet", "x", Number::F32), Number::F16);
        assert_eq!(formats.of_factors(), Number::F16);
    }
}
