//! A model folder written as one file.

use std::collections::BTreeMap;
use std::path::Path;

use crate::sd::Config as UNetConfig;
use craft_nn::ldm::{Family, Names, Part, Skeleton, Take};
use craft_nn::vae::VaeConfig;
use craft_store::raw::{self, Entry, Format, Raw, RawReader};
use craft_store::space;
use serde_json::Value;

use super::{RUN_KEY, transposed};
use crate::component::{Kind, open_weights};
use crate::dtype::{Formats, convert};
use crate::error::{ModelError, Result};
use crate::model::read_text;
use craft_core::Progress;

/// Family and prediction type of a model folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About {
    /// The family.
    pub family: Family,
    /// Whether it predicts v.
    pub v: bool,
    /// Whether its schedule has a terminal signal-to-noise ratio of zero.
    pub zero_snr: bool,
}

impl About {
    /// Empty tensors by which other programs know that a model predicts v, and that its schedule has a
    /// terminal signal-to-noise ratio of zero. Of Stable Diffusion 2 its weights tell the former.
    fn marks(self) -> impl Iterator<Item = Entry> {
        let v = self.v && self.family != Family::Sd2;
        [("v_pred", v), ("ztsnr", self.v && self.zero_snr)]
            .into_iter()
            .filter(|(_, set)| *set)
            .map(|(name, _)| Entry { name: name.to_owned(), shape: vec![0], format: Format::F32 })
    }

    /// Texts of the SAI Model Metadata Specification; `suffix` such as `/lora`. `original` tells whether the
    /// parameters have the names of the original code; `size` is the height and width of training.
    pub fn modelspec(
        self,
        title: &str,
        suffix: &str,
        original: bool,
        [height, width]: [usize; 2],
    ) -> BTreeMap<String, String> {
        let implementation = if original {
            "https://github.com/Stability-AI/generative-models"
        } else {
            "diffusers"
        };
        let texts = [
            ("modelspec.sai_model_spec", "1.0.0".to_owned()),
            ("modelspec.architecture", format!("{}{suffix}", self.family.architecture(self.v))),
            ("modelspec.implementation", implementation.to_owned()),
            ("modelspec.title", title.to_owned()),
            ("modelspec.resolution", format!("{width}x{height}")),
            ("modelspec.prediction_type", if self.v { "v" } else { "epsilon" }.to_owned()),
        ];
        texts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }
}

/// What a model folder is: SDXL has a second text encoder, Stable Diffusion 2 one with open_clip's
/// activation.
///
/// # Errors
/// When a config is missing or not JSON.
pub fn about(dir: &Path) -> Result<About> {
    let read = |name: &str| -> Result<Value> {
        let path = dir.join(name);
        serde_json::from_str(&read_text(&path)?)
            .map_err(|e| ModelError::Input { path, message: format!("it is not JSON: {e}") })
    };
    let family = if dir.join("text_encoder_2").is_dir() {
        Family::Sdxl
    } else if read("text_encoder/config.json")?["hidden_act"] == "gelu" {
        Family::Sd2
    } else {
        Family::Sd1
    };
    let scheduler = read("scheduler/scheduler_config.json")?;
    let v = scheduler["prediction_type"] == "v_prediction";
    Ok(About { family, v, zero_snr: scheduler["rescale_betas_zero_snr"] == true })
}

/// Where a tensor of the file comes from: one parameter, or three that are stacked.
struct Source {
    part: Part,
    take: Take,
    names: BTreeMap<usize, String>,
}

/// What a file says of itself.
pub struct Header<'a> {
    /// Its family.
    pub about: About,
    /// Height and width of training.
    pub size: [usize; 2],
    /// What it was made of.
    pub run: &'a str,
}

/// Writes a model folder as one file.
///
/// # Errors
/// When the folder is incomplete, or has a parameter that such files have no place for.
pub fn export(
    dir: &Path,
    out: &Path,
    formats: &Formats,
    header: &Header<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    let about = header.about;
    let config = |part: Part| -> Result<_> {
        let path = dir.join(part.folder()).join("config.json");
        Ok((read_text(&path)?, path))
    };
    let (text, path) = config(Part::Unet)?;
    let unet =
        UNetConfig::from_json(&text).map_err(|source| ModelError::Config { path, source })?;
    let (text, path) = config(Part::Vae)?;
    let vae = VaeConfig::from_json(&text).map_err(|source| ModelError::Config { path, source })?;
    let names = Names::new(about.family, &Skeleton::of(&unet, &vae));

    let mut readers = BTreeMap::new();
    let mut paths = BTreeMap::new();
    let mut shapes = BTreeMap::new();
    let mut sources: BTreeMap<String, Source> = BTreeMap::new();
    for &part in about.family.parts() {
        let kind = match part {
            Part::Unet => Kind::Unet,
            Part::Vae => Kind::Vae,
            Part::Text | Part::Text2 => Kind::Text,
        };
        let (path, reader) = open_weights(&dir.join(part.folder()), kind)?;
        for (name, shape) in reader.shapes() {
            if name.ends_with("position_ids") {
                continue;
            }
            let Some((old, take)) = names.to_ldm(part, &name) else {
                return Err(ModelError::Input {
                    path,
                    message: format!(
                        "tensor `{name}` has no place in a {} checkpoint; expected the networks of that family: export with --format diffusers",
                        about.family.title()
                    ),
                });
            };
            let place = if let Take::Third(i) = take { i } else { 0 };
            let source =
                sources.entry(old).or_insert(Source { part, take, names: BTreeMap::new() });
            source.names.insert(place, name.clone());
            shapes.insert((part, name), shape);
        }
        readers.insert(part, reader);
        paths.insert(part, path);
    }

    let entries: Vec<Entry> = sources
        .iter()
        .filter_map(|(name, source)| entry(name, source, &shapes, &readers[&source.part], formats))
        .chain(about.marks())
        .collect();
    let bytes: u64 = entries.iter().map(|e| e.len() as u64).sum();
    space::require_free(out, bytes + (1 << 20))?;
    let title = out.file_stem().unwrap_or_default().to_string_lossy();
    progress.start("write checkpoint", bytes, "bytes");
    let mut texts = about.modelspec(&title, "", true, header.size);
    texts.insert(RUN_KEY.to_owned(), header.run.to_owned());
    raw::write(out, &entries, &texts, |entry| -> Result<Vec<u8>> {
        let Some(source) = sources.get(&entry.name) else { return Ok(vec![]) };
        let mut bytes = Vec::with_capacity(entry.len());
        for name in source.names.values() {
            let Some(reader) = readers.get_mut(&source.part) else { continue };
            let raw = convert(reader.read(name)?, entry.format, &paths[&source.part], name)?;
            bytes.append(&mut bytes_in_file(source.take, raw));
        }
        progress.advance(bytes.len() as u64);
        Ok(bytes)
    })?;
    progress.finish("write checkpoint: done");
    Ok(())
}

fn entry(
    name: &str,
    source: &Source,
    shapes: &BTreeMap<(Part, String), Vec<usize>>,
    reader: &RawReader,
    formats: &Formats,
) -> Option<Entry> {
    let first = source.names.values().next()?;
    let mut shape = shapes.get(&(source.part, first.clone()))?.clone();
    match source.take {
        Take::Whole => {}
        Take::Square => shape.extend([1, 1]),
        Take::Transposed => shape.reverse(),
        Take::Third(_) => *shape.first_mut()? *= 3,
    }
    let format = formats.wanted(source.part.folder(), first, reader.format(first)?);
    Some(Entry { name: name.to_owned(), shape, format })
}

fn bytes_in_file(take: Take, raw: Raw) -> Vec<u8> {
    if take == Take::Transposed { transposed(&raw) } else { raw.bytes }
}
