//! What a picture says of how it was drawn: the text `parameters` that other tools show and read.

use std::path::{Path, PathBuf};

use crate::sample::DrawOptions;

/// The settings that the pictures of a series share.
#[derive(Clone, Copy, Debug)]
pub struct Parameters<'a> {
    /// What they were not to show.
    pub negative: Option<&'a str>,
    /// How they were drawn.
    pub options: &'a DrawOptions,
    /// The model's name.
    pub model: &'a str,
    /// LoRA files and their scales.
    pub loras: &'a [(PathBuf, f32)],
}

impl Parameters<'_> {
    /// The text of one picture; `source` says what its noise was drawn from, such as `Seed: 7`.
    ///
    /// The form is that of AUTOMATIC1111's web UI: prompt, negative prompt, and settings on a line.
    pub fn of(&self, prompt: &str, source: &str) -> String {
        let o = self.options;
        let mut text = format!("{prompt}{}\n", lora_tags(self.loras));
        if let Some(negative) = self.negative.filter(|text| !text.is_empty()) {
            text.push_str(&format!("Negative prompt: {negative}\n"));
        }
        let sampler = o.scheduler.label;
        let karras = if o.karras { " Karras" } else { "" };
        text.push_str(&format!(
            "Steps: {}, Sampler: {sampler}{karras}, CFG scale: {}, {source}, Size: {}x{}, Model: {}, Version: craft {}",
            o.steps,
            o.guidance_scale,
            o.width,
            o.height,
            quoted(self.model),
            env!("CARGO_PKG_VERSION")
        ));
        text
    }
}

/// A value as A1111 writes it between commas: in quotes, as JSON, where it has commas, colons or more than one
/// line.
fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

/// What follows a prompt where LoRA files were used: ` <lora:name:scale>` each, by the name of the file or folder
/// without where it lies.
fn lora_tags(loras: &[(PathBuf, f32)]) -> String {
    loras.iter().map(|(path, scale)| format!(" <lora:{}:{scale}>", lora_name(path))).collect()
}

/// The name that programs list a LoRA under. Of a file that PEFT or diffusers named, the folder's says more.
fn lora_name(path: &Path) -> String {
    let saved = ["adapter_model", "adapter_config", "pytorch_lora_weights"];
    let stem = if path.is_dir() { path.file_name() } else { path.file_stem() };
    let folder = path.parent().and_then(Path::file_name);
    let name = match stem {
        Some(stem) if saved.iter().any(|s| stem == *s) => folder.unwrap_or(stem),
        Some(stem) => stem,
        None => folder.unwrap_or_default(),
    };
    // These end a tag, or a part of it.
    name.to_string_lossy().replace([':', '<', '>', '\n', '\r'], "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use craft_core::sampler::dpm;

    #[test]
    fn a_picture_says_how_it_was_drawn() {
        let options = DrawOptions {
            steps: 25,
            guidance_scale: 7.5,
            scheduler: dpm::KIND,
            karras: true,
            height: 512,
            width: 768,
            batch: 4,
        };
        let parameters =
            Parameters { negative: Some("blurry"), options: &options, model: "sd: a", loras: &[] };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            parameters.of("a cat, red", "Seed: 7"),
            format!(
                "a cat, red\nNegative prompt: blurry\nSteps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 7, Size: 768x512, Model: \"sd: a\", Version: craft {version}"
            )
        );
    }

    #[test]
    fn values_are_quoted_as_a1111_does() {
        assert_eq!(quoted("plain name.safetensors"), "plain name.safetensors");
        assert_eq!(quoted("my, model: v2"), "\"my, model: v2\"");
        assert_eq!(quoted("a \"b\"\nc"), "\"a \\\"b\\\"\\nc\"");
        assert_eq!(quoted("モデル, 2"), "\"モデル, 2\"");
    }

    #[test]
    fn a_lora_is_told_by_name_and_never_by_path() {
        let tags = |path: &str, scale| lora_tags(&[(path.into(), scale)]);
        assert_eq!(tags("/home/ann/loras/style.safetensors", 0.8), " <lora:style:0.8>");
        assert_eq!(tags("style.v2.safetensors", 1.0), " <lora:style.v2:1>");
        assert_eq!(tags("runs/cats/adapter_model.safetensors", 1.0), " <lora:cats:1>");
        assert_eq!(tags("C:a>b.safetensors", 1.0), " <lora:C_a_b:1>");
        assert_eq!(lora_tags(&[]), "");
    }
}
