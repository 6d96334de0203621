//! The text in a picture that A1111 and its kin read settings from.

use std::path::{Path, PathBuf};

/// A value as A1111 writes it between commas: in quotes, as JSON, where it has commas, colons or more than one
/// line.
pub(super) fn quoted(value: &str) -> String {
    if value.contains([',', ':', '\n']) {
        serde_json::Value::from(value).to_string()
    } else {
        value.to_owned()
    }
}

/// What follows a prompt where LoRA files were used: ` <lora:name:scale>` each, by the name of the file or folder
/// without where it lies.
pub(super) fn lora_tags(loras: &[(PathBuf, f32)]) -> String {
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
