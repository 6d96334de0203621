//! From 8-bit pictures to the pixels that image encoders were trained on.

mod resize;

use serde_json::Value;

use resize::{Window, resize_pillow_window};
pub use resize::{resize_float, resize_float_aliased, resize_pillow};

use crate::error::RewardError;
use crate::files::RewardFiles;
use crate::reward::{MissingReason, RgbImageRef};

/// OpenAI CLIP's mean of each channel.
pub const CLIP_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// OpenAI CLIP's standard deviation of each channel.
pub const CLIP_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// Shortest side to the size as Pillow does it on bytes, then the centre; an odd pixel too much is
    /// cut on the far side (transformers' `CLIPImageProcessor`).
    CentreCrop,
    /// The same with torchvision's `CenterCrop`, which rounds half a pixel to the even number
    /// (OpenAI's CLIP, open_clip).
    CentreCropEven,
    /// Longest side to the size on floats, antialiased, then zeros around (HPSv2's `ResizeMaxSize`
    /// under torchvision 0.17 and later). The default of HPSv2 here.
    Pad,
    /// The same without antialiasing, as torchvision before 0.17 resized float tensors.
    PadAliased,
}

/// Preprocessing of an image encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// How a picture becomes a square.
    pub fit: Fit,
    /// Side of that square in pixels.
    pub size: usize,
    /// Subtracted from each channel in `[0, 1]`.
    pub mean: [f32; 3],
    /// Divides each channel after that.
    pub std: [f32; 3],
}

impl Preprocess {
    /// CLIP's normalisation.
    pub fn clip(fit: Fit, size: usize) -> Self {
        Self { fit, size, mean: CLIP_MEAN, std: CLIP_STD }
    }

    /// Takes what `preprocessor_config.json` says, where there is one. Beside transformers' keys,
    /// `"antialias": false` gives HPSv2's scores under torchvision before 0.17.
    pub(crate) fn configured(
        mut self,
        reward: &str,
        files: &RewardFiles,
    ) -> Result<Self, RewardError> {
        const FILE: &str = "preprocessor_config.json";
        let Some(json) = files.text(FILE) else {
            return Ok(self);
        };
        let error = |found: String, expected: &str| RewardError::File {
            reward: reward.to_owned(),
            file: FILE.to_owned(),
            found,
            expected: expected.to_owned(),
        };
        let config: serde_json::Map<String, Value> = serde_json::from_str(json)
            .map_err(|e| error(e.to_string(), "the JSON object of a CLIPImageProcessor"))?;
        for key in ["do_resize", "do_center_crop", "do_rescale", "do_normalize"] {
            if config.get(key).and_then(Value::as_bool) == Some(false) {
                return Err(error(format!("{key} is false"), "true"));
            }
        }
        if let Some(resample) = config.get("resample").filter(|v| v.as_u64() != Some(3)) {
            return Err(error(format!("resample is {resample}"), "3 (bicubic)"));
        }
        for key in ["size", "crop_size"] {
            for side in sides(config.get(key)) {
                if side != self.size as u64 {
                    let expected = format!("image_size = {} of the config", self.size);
                    return Err(error(format!("{key} is {side}"), &expected));
                }
            }
        }
        match (config.get("antialias"), self.fit) {
            (None, _) | (Some(Value::Bool(true)), _) => {}
            (Some(Value::Bool(false)), Fit::Pad | Fit::PadAliased) => self.fit = Fit::PadAliased,
            (Some(other), Fit::Pad | Fit::PadAliased) => {
                return Err(error(format!("antialias is {other}"), "true or false"));
            }
            (Some(other), _) => {
                let expected = "true: only HPSv2 has a variant without antialiasing";
                return Err(error(format!("antialias is {other}"), expected));
            }
        }
        if let Some(mean) = config.get("image_mean") {
            self.mean = channels(mean)
                .ok_or_else(|| error(format!("image_mean is {mean}"), "three finite numbers"))?;
        }
        if let Some(std) = config.get("image_std") {
            self.std = channels(std)
                .filter(|std| std.iter().all(|s| *s > 0.0))
                .ok_or_else(|| error(format!("image_std is {std}"), "three positive numbers"))?;
        }
        Ok(self)
    }

    /// The pixels of a picture, `[3, size, size]`.
    ///
    /// # Errors
    /// When the picture's bytes do not fit its size.
    pub fn apply(&self, image: RgbImageRef<'_>) -> Result<Vec<f32>, MissingReason> {
        image.check()?;
        let mut planes = match self.fit {
            Fit::CentreCrop => self.centre_crop(image, |slack| slack / 2),
            Fit::CentreCropEven => self.centre_crop(image, half_to_even),
            Fit::Pad => self.pad(image, resize_float),
            Fit::PadAliased => self.pad(image, resize_float_aliased),
        };
        let area = self.size * self.size;
        for (c, plane) in planes.chunks_exact_mut(area).enumerate() {
            for v in plane {
                *v = (*v - self.mean[c]) / self.std[c];
            }
        }
        Ok(planes)
    }

    fn centre_crop(&self, image: RgbImageRef<'_>, half: fn(usize) -> usize) -> Vec<f32> {
        let size = self.size;
        let short = image.width.min(image.height);
        let (width, height) = (size * image.width / short, size * image.height / short);
        let (left, top) = (half(width - size), half(height - size));
        let window = Window { left, top, width: size, height: size };
        let resized = resize_pillow_window(image, width, height, window);
        let mut planes = vec![0.0; 3 * size * size];
        for y in 0..size {
            for x in 0..size {
                for c in 0..3 {
                    let byte = resized[(y * size + x) * 3 + c];
                    planes[(c * size + y) * size + x] = f32::from(byte) / 255.0;
                }
            }
        }
        planes
    }

    fn pad(
        &self,
        image: RgbImageRef<'_>,
        resize: fn(RgbImageRef<'_>, usize, usize) -> Vec<f32>,
    ) -> Vec<f32> {
        let size = self.size;
        let scale = size as f64 / image.width.max(image.height) as f64;
        let side = |n: usize| ((n as f64 * scale).round_ties_even() as usize).clamp(1, size);
        let (width, height) = (side(image.width), side(image.height));
        let resized = resize(image, width, height);
        let (left, top) = ((size - width) / 2, (size - height) / 2);
        let mut planes = vec![0.0; 3 * size * size];
        for c in 0..3 {
            for y in 0..height {
                let from = (c * height + y) * width;
                let to = (c * size + top + y) * size + left;
                planes[to..to + width].copy_from_slice(&resized[from..from + width]);
            }
        }
        planes
    }
}

/// Half of a number; what lies between two numbers goes to the even one, as Python's `round` does.
fn half_to_even(n: usize) -> usize {
    n / 2 + usize::from(n % 4 == 3)
}

/// All sides that a size names: a number, or an object with `shortest_edge` or `height` and `width`.
fn sides(size: Option<&Value>) -> Vec<u64> {
    match size {
        Some(Value::Object(sides)) => sides.values().filter_map(Value::as_u64).collect(),
        Some(side) => side.as_u64().into_iter().collect(),
        None => Vec::new(),
    }
}

fn channels(value: &Value) -> Option<[f32; 3]> {
    let values: Vec<f32> =
        value.as_array()?.iter().filter_map(Value::as_f64).map(|v| v as f32).collect();
    let values: [f32; 3] = values.try_into().ok()?;
    values.iter().all(|v| v.is_finite()).then_some(values)
}
