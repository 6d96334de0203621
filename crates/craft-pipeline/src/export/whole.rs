//! The whole tuned model: a folder in the diffusers layout, or one checkpoint file.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Param;
use burn::tensor::Tensor;
use craft_nn::weights::{ParamVisitor, TensorMap, to_vec, visit};
use craft_store::raw::{self, Entry, Format as Number, RawReader};
use craft_store::staging::Staging;
use craft_store::weights::{self, DIFFUSERS, Stem, TRANSFORMERS};
use craft_store::{StoreError, atomic, hash};

use super::{Exported, Format, Target};
use crate::context::Context;
use crate::error::{PipelineError, Result};
use craft_model::dtype::{self, COMPONENTS, Formats};
use craft_model::model::{Model, clear_weights, copy_model};
use craft_model::single_file;

/// Writes the whole model into a place beside its target, reads it back and compares weight by weight and
/// in a picture. `aligned` is the folder of a tuned model, or of factors that `tuned` has merged in.
///
/// # Errors
/// When what was written is not the tuned model, or the disk refuses.
pub(super) fn write(
    target: &Target<'_>,
    staging: &Staging,
    (aligned, base_dir): (&Path, &Path),
    tuned: Model,
    context: &Context<'_>,
    compare: impl FnOnce(&Model) -> Result<(f64, u8)>,
) -> Result<Exported> {
    let formats = Formats::of(target.dtype, base_dir)?;
    let expected = digests(&tuned, &formats);
    let mut from = aligned.to_owned();
    if target.has_factors {
        // A whole model is written from a folder, so the factors are merged into one first.
        from = staging.beside("merged");
        merge(base_dir, &tuned, &from, &formats)?;
    }
    drop(tuned);
    let made = staging.path();
    let back = if target.format == Format::Diffusers {
        if target.has_factors {
            atomic::rename(&from, &made, "write")?;
        } else {
            link_model(&from, &made, &formats)?;
        }
        made.clone()
    } else {
        let about =
            single_file::Header { about: target.about, size: target.size, run: &target.run };
        single_file::export(&from, &made, &formats, &about, context.progress)?;
        let place = staging.beside("copy");
        atomic::create_dir(&place)?;
        single_file::import_into(&place, &made, Some(&from), context.progress)?
    };
    let model = Model::load(&back, context.device())?;
    let found = digests(&model, &formats);
    if let Some((name, _)) =
        expected.values.iter().find(|(name, sum)| found.values.get(*name) != Some(sum))
    {
        return Err(differs(target.out, &format!("its tensor {name} differs")));
    }
    let (mean_difference, max_difference) = compare(&model)?;
    if max_difference > 0 && !expected.rounds {
        let text = format!("its picture is {mean_difference:.3} grey levels apart on average");
        return Err(differs(target.out, &text));
    }
    let number = expected.main;
    Ok(Exported::new(number, (mean_difference, max_difference)))
}

fn differs(out: &Path, what: &str) -> PipelineError {
    PipelineError::Input {
        path: out.to_owned(),
        message: format!(
            "read back, it is another model than the tuned one ({what}); expected the same: is the disk sound?"
        ),
    }
}

/// Sums of a model's parameters as they are after they were written.
struct Digests {
    values: BTreeMap<String, u64>,
    /// Whether writing changes any of them.
    rounds: bool,
    /// The format of most of the denoiser's values.
    main: Number,
}

struct Digest<'a> {
    folder: &'static str,
    formats: &'a Formats,
    counts: BTreeMap<&'static str, (usize, Number)>,
    sums: &'a mut Digests,
}

impl ParamVisitor for Digest<'_> {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        let format = self.formats.wanted(self.folder, name, Number::F32);
        let values = to_vec(param.val());
        let mut sum = 0xcbf2_9ce4_8422_2325u64;
        for value in &values {
            let back = dtype::rounded(*value, format);
            self.sums.rounds |= back != *value;
            sum = (sum ^ u64::from(back.to_bits())).wrapping_mul(0x0100_0000_01b3);
        }
        self.counts.entry(dtype::name(format)).or_insert((0, format)).0 += values.len();
        self.sums.values.insert(format!("{}.{name}", self.folder), sum);
    }
}

fn digests(model: &Model, formats: &Formats) -> Digests {
    let mut sums = Digests { values: BTreeMap::new(), rounds: false, main: Number::F32 };
    let mut digest = Digest { folder: "unet", formats, counts: BTreeMap::new(), sums: &mut sums };
    visit(&model.denoiser, &mut digest);
    let main = digest.counts.values().max_by_key(|(count, _)| *count).map(|(_, format)| *format);
    digest.folder = "vae";
    visit(&model.vae, &mut digest);
    digest.folder = "text_encoder";
    visit(&model.text, &mut digest);
    if let Some(second) = &model.second {
        digest.folder = "text_encoder_2";
        visit(&second.text, &mut digest);
    }
    sums.main = main.unwrap_or(Number::F32);
    sums
}

/// Writes the base model's folder with the denoiser and the text encoders of a tuned model.
fn merge(base_dir: &Path, tuned: &Model, to: &Path, formats: &Formats) -> Result<()> {
    copy_model(base_dir, to)?;
    put(to, "unet", DIFFUSERS, &craft_nn::weights::export(&tuned.denoiser), formats)?;
    put(to, "text_encoder", TRANSFORMERS, &craft_nn::weights::export(&tuned.text), formats)?;
    if let Some(second) = &tuned.second {
        let text = craft_nn::weights::export(&second.text);
        put(to, "text_encoder_2", TRANSFORMERS, &text, formats)?;
    }
    convert(&base_dir.join("vae"), &to.join("vae"), ("vae", DIFFUSERS), formats)
}

/// Writes a network in the place of the weights of a component's folder.
fn put(
    model: &Path,
    folder: &str,
    stem: Stem,
    tensors: &TensorMap,
    formats: &Formats,
) -> Result<()> {
    let dir = model.join(folder);
    clear_weights(&dir, stem)?;
    let entry = |(name, tensor): (&String, &craft_nn::weights::HostTensor)| Entry {
        name: name.clone(),
        shape: tensor.shape.clone(),
        format: formats.wanted(folder, name, Number::F32),
    };
    let file = dir.join(stem.file());
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    raw::write(&file, &entries, &BTreeMap::new(), |entry| {
        dtype::bytes(&tensors[&entry.name].data, entry.format).map_err(|message| {
            PipelineError::Input {
                path: file.clone(),
                message: format!("tensor `{}`: {message}", entry.name),
            }
        })
    })
}

/// Writes a component's weights in the formats that are wanted, where they are not in them.
fn convert(from: &Path, to: &Path, (folder, stem): (&str, Stem), formats: &Formats) -> Result<()> {
    let path = weights::find(from, stem)?;
    let mut reader = RawReader::open(&path)?;
    let entries = wanted(&reader, folder, formats);
    if entries.iter().all(|entry| reader.format(&entry.name) == Some(entry.format)) {
        return Ok(());
    }
    clear_weights(to, stem)?;
    raw::write(&to.join(stem.file()), &entries, &BTreeMap::new(), |entry| -> Result<Vec<u8>> {
        let tensor = reader.read(&entry.name)?;
        Ok(dtype::convert(tensor, entry.format, &path, &entry.name)?.bytes)
    })
}

fn wanted(reader: &RawReader, folder: &str, formats: &Formats) -> Vec<Entry> {
    let entry = |(name, shape): (String, Vec<usize>)| {
        let format = formats.wanted(folder, &name, reader.format(&name)?);
        Some(Entry { name, shape, format })
    };
    reader.shapes().into_iter().filter_map(entry).collect()
}

/// Puts a model's files into another folder, as links where the disk can and the number formats are those that
/// are wanted.
fn link_model(from: &Path, to: &Path, formats: &Formats) -> Result<()> {
    link(from, to)?;
    for (folder, stem) in COMPONENTS {
        if from.join(folder).is_dir() {
            convert(&from.join(folder), &to.join(folder), (folder, stem), formats)?;
        }
    }
    Ok(())
}

fn link(from: &Path, to: &Path) -> Result<()> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |error: StoreError| PipelineError::Input {
            path,
            message: format!(
                "it cannot be copied ({}); expected a readable model folder",
                error.reason()
            ),
        }
    };
    atomic::create_dir(to)?;
    for path in atomic::list(from).map_err(unreadable(from))? {
        let Some(name) = path.file_name() else { continue };
        // What a stage notes of its folder is no part of the model.
        if name.to_string_lossy().starts_with('.') || name == "stage.json" {
            continue;
        }
        let target = to.join(name);
        if path.is_dir() {
            link(&path, &target)?;
        } else {
            atomic::link_or_copy(&path, &target)?;
        }
    }
    Ok(())
}

/// What an export was made of and how, for its header: the same again is the same file.
pub(super) fn identity(stage: &Path, words: &str) -> Result<String> {
    Ok(hash::sha256_bytes(format!("{} {words}", hash::sha256_file(stage)?))[..16].to_owned())
}
