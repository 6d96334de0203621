//! The layouts in which a folder can hold a network's weights: one file or an index of shards, of
//! safetensors or `torch.save`, plain or of a variant.
//!
//! Names of indices of variants differ between versions: `model.safetensors.index.fp16.json`,
//! `model.safetensors.fp16.index.json` (diffusers 0.29 and 0.30), `model.fp16.safetensors.index.json`.
//! Source: `_add_variant` of diffusers and transformers.

use super::Stem;

/// One layout of a network's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout<'a> {
    /// Such as `fp16`; empty for none.
    pub(super) variant: &'a str,
    pub(super) safetensors: bool,
    /// Whether the file is an index of shards.
    pub(super) index: bool,
    /// The weights, or the index.
    pub(super) file: &'a str,
}

/// Variants whose meaning is known, full precision first.
const KNOWN: [&str; 4] = ["", "fp32", "fp16", "bf16"];

impl Stem {
    /// The layout that a file name belongs to, if it is a weight file or an index.
    fn layout<'a>(self, file: &'a str) -> Option<Layout<'a>> {
        for (stem, kind) in [(self.safetensors, "safetensors"), (self.bin, "bin")] {
            let Some(rest) = file.strip_prefix(stem).and_then(|rest| rest.strip_prefix('.')) else {
                continue;
            };
            let layout = |variant, index| Layout {
                variant,
                safetensors: kind == "safetensors",
                index,
                file,
            };
            let parts: Vec<&str> = rest.split('.').collect();
            let found = match parts[..] {
                [k] if k == kind => layout("", false),
                [variant, k] if k == kind => layout(variant, false),
                [k, "index", "json"] if k == kind => layout("", true),
                [k, "index", variant, "json"] if k == kind => layout(variant, true),
                [k, variant, "index", "json"] if k == kind => layout(variant, true),
                [variant, k, "index", "json"] if k == kind => layout(variant, true),
                _ => continue,
            };
            // `model.fp16-00001-of-00002.safetensors` is a shard.
            if !found.variant.contains("-of-") {
                return Some(found);
            }
        }
        None
    }

    /// The layout to take: safetensors before `.bin`, then plain weights before variants or, with
    /// `small`, 16 bits before 32, then one file before shards. A variant of unknown meaning (`ema`,
    /// `non_ema`) is taken where it is the only one.
    pub(super) fn preferred<'a>(self, names: &[&'a str], small: bool) -> Option<Layout<'a>> {
        let rank = |variant: &str| {
            let known = KNOWN.iter().position(|v| *v == variant);
            if small && variant == "fp16" { Some(0) } else { known.map(|place| place + 1) }
        };
        let mut found: Vec<Layout<'a>> =
            names.iter().filter_map(|name| self.layout(name)).collect();
        let key = |l: &Layout<'_>| (!l.safetensors, rank(l.variant).unwrap_or(9), l.index);
        found.sort_by(|a, b| (key(a), a.file).cmp(&(key(b), b.file)));
        let first = found.first()?.clone();
        let twins = found.iter().filter(|l| l.safetensors == first.safetensors);
        let unknown = rank(first.variant).is_none();
        let several = unknown && twins.clone().any(|l| l.variant != first.variant);
        (!several).then_some(first)
    }

    /// The shards of a layout among the names of a folder's files.
    pub(super) fn shards<'a>(self, layout: &Layout<'_>, names: &[&'a str]) -> Vec<&'a str> {
        let (stem, kind) = match layout.safetensors {
            true => (self.safetensors, "safetensors"),
            false => (self.bin, "bin"),
        };
        let is_shard = |name: &&&str| {
            let Some(rest) = name.strip_prefix(stem) else { return false };
            let Some(rest) = rest.strip_suffix(kind).and_then(|r| r.strip_suffix('.')) else {
                return false;
            };
            // `model.fp16-00001-of-00002.safetensors`, in some versions `model-…-of-….fp16.safetensors`.
            let Some((before, numbers)) = rest.split_once('-') else { return false };
            let (numbers, after) = numbers.split_once('.').unwrap_or((numbers, ""));
            let variant = if after.is_empty() { before.trim_start_matches('.') } else { after };
            numbers.contains("-of-") && variant == layout.variant
        };
        names.iter().filter(is_shard).copied().collect()
    }
}
