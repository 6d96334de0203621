//! Encoders that rewards share: the same network with the same weights is kept once, and pictures that
//! two rewards see alike are encoded once.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use burn::tensor::{Device, Int, Tensor, TensorData};
use craft_nn::clip::{ClipTextConfig, ClipTextModel, ClipVisionConfig, ClipVisionModel};
use craft_nn::tokenizer::ClipTokenizer;
use craft_nn::weights::{TensorMap, to_vec};
use sha2::{Digest, Sha256};

use crate::error::RewardError;
use crate::preprocess::Preprocess;
use crate::reward::{MissingReason, RgbImageRef};

/// Pictures or texts that go through a network at once. Bounds memory; changes no score.
pub(crate) const BATCH: usize = 32;
/// Most embeddings of pictures that are remembered.
const REMEMBERED: usize = 4096;

type Hash = [u8; 32];

/// The networks of rewards that are loaded together. A reward built with [`Towers::default`] has its
/// networks to itself.
#[derive(Debug, Default)]
pub struct Towers {
    sharing: bool,
    images: BTreeMap<Hash, Weak<ImageTower>>,
    texts: BTreeMap<Hash, Weak<TextTower>>,
}

impl Towers {
    /// For rewards that may share networks: their weights are hashed, and the same ones kept once.
    pub fn shared() -> Self {
        Self { sharing: true, ..Self::default() }
    }

    /// Image encoders in memory.
    pub fn image_towers(&self) -> usize {
        self.images.values().filter(|tower| tower.strong_count() > 0).count()
    }

    /// Pictures that went through the image encoders.
    pub fn images_encoded(&self) -> u64 {
        let towers = self.images.values().filter_map(Weak::upgrade);
        towers.map(|tower| tower.encoded.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn image(
        &mut self,
        reward: &str,
        config: &ClipVisionConfig,
        preprocess: Preprocess,
        weights: TensorMap,
        device: &Device,
    ) -> Result<Arc<ImageTower>, RewardError> {
        let key = self.sharing.then(|| digest(&(config, &preprocess), &weights));
        if let Some(tower) = key.and_then(|key| self.images.get(&key)?.upgrade()) {
            return Ok(tower);
        }
        let model = ClipVisionModel::from_tensors(config, weights, device)
            .map_err(|source| RewardError::Weights { reward: reward.to_owned(), source })?;
        let tower = Arc::new(ImageTower {
            model,
            preprocess,
            device: device.clone(),
            known: Mutex::default(),
            encoded: AtomicU64::new(0),
        });
        if let Some(key) = key {
            self.images.insert(key, Arc::downgrade(&tower));
        }
        Ok(tower)
    }

    pub(crate) fn text(
        &mut self,
        reward: &str,
        config: &ClipTextConfig,
        tokenizer: ClipTokenizer,
        weights: TensorMap,
        device: &Device,
    ) -> Result<Arc<TextTower>, RewardError> {
        let key = self.sharing.then(|| {
            let ids = tokenizer.encode("A \u{201c}word\u{201d}<|endoftext|>").ids;
            digest(&(config, ids, tokenizer.vocab_size()), &weights)
        });
        if let Some(tower) = key.and_then(|key| self.texts.get(&key)?.upgrade()) {
            return Ok(tower);
        }
        let model = ClipTextModel::from_tensors(config, weights, device)
            .map_err(|source| RewardError::Weights { reward: reward.to_owned(), source })?;
        let tower = Arc::new(TextTower { model, tokenizer, device: device.clone() });
        if let Some(key) = key {
            self.texts.insert(key, Arc::downgrade(&tower));
        }
        Ok(tower)
    }
}

/// Hash of a network: how it is built and what it weighs.
fn digest(how: &impl Debug, weights: &TensorMap) -> Hash {
    let mut all = Sha256::new();
    all.update(format!("{how:?}"));
    for (name, tensor) in weights {
        all.update(format!("{name}{:?}", tensor.shape));
        for part in tensor.data.chunks(1 << 14) {
            let bytes: Vec<u8> = part.iter().flat_map(|v| v.to_le_bytes()).collect();
            all.update(bytes);
        }
    }
    all.finalize().into()
}

/// An image encoder with what leads up to it.
#[derive(Debug)]
pub(crate) struct ImageTower {
    model: ClipVisionModel,
    preprocess: Preprocess,
    device: Device,
    /// Embeddings by the hash of their picture, where rewards share the tower.
    known: Mutex<BTreeMap<Hash, Vec<f32>>>,
    encoded: AtomicU64,
}

impl ImageTower {
    /// One embedding a picture, not normalised.
    pub(crate) fn embed(
        self: &Arc<Self>,
        images: &[RgbImageRef<'_>],
    ) -> Vec<Result<Vec<f32>, MissingReason>> {
        if Arc::strong_count(self) == 1 {
            return self.encode(images);
        }
        let hashes: Vec<Hash> = images.iter().map(picture_hash).collect();
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut rows: Vec<Option<Result<Vec<f32>, MissingReason>>> =
            hashes.iter().map(|hash| known().get(hash).cloned().map(Ok)).collect();
        let new: Vec<usize> = (0..rows.len()).filter(|i| rows[*i].is_none()).collect();
        let missing: Vec<RgbImageRef<'_>> = new.iter().map(|i| images[*i]).collect();
        for (i, row) in new.into_iter().zip(self.encode(&missing)) {
            if let Ok(row) = &row {
                let mut known = known();
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(hashes[i], row.clone());
            }
            rows[i] = Some(row);
        }
        rows.into_iter().map(|row| row.unwrap_or(Err(MissingReason::NoPrompt))).collect()
    }

    fn encode(&self, images: &[RgbImageRef<'_>]) -> Vec<Result<Vec<f32>, MissingReason>> {
        encode_images(images, &self.preprocess, &self.device, |pixels| {
            self.encoded.fetch_add(pixels.dims()[0] as u64, Ordering::Relaxed);
            let out = self.model.forward(pixels);
            // Constructors see to it that there is a projection.
            out.image_embeds.unwrap_or(out.pooled)
        })
    }
}

fn picture_hash(image: &RgbImageRef<'_>) -> Hash {
    let mut hash = Sha256::new();
    hash.update((image.width as u64).to_le_bytes());
    hash.update((image.height as u64).to_le_bytes());
    hash.update(image.pixels);
    hash.finalize().into()
}

/// Prepares pictures and runs a network on them in batches; gives the network's values picture by
/// picture.
pub(crate) fn encode_images<const D: usize>(
    images: &[RgbImageRef<'_>],
    preprocess: &Preprocess,
    device: &Device,
    network: impl Fn(Tensor<4>) -> Tensor<D>,
) -> Vec<Result<Vec<f32>, MissingReason>> {
    let size = preprocess.size;
    let mut rows = Vec::with_capacity(images.len());
    for batch in images.chunks(BATCH) {
        let prepared: Vec<_> = batch.iter().map(|image| preprocess.apply(*image)).collect();
        let good: Vec<&Vec<f32>> = prepared.iter().filter_map(|p| p.as_ref().ok()).collect();
        let count = good.len();
        let mut values = Vec::new();
        if count > 0 {
            let pixels = good.into_iter().flatten().copied().collect();
            let data = TensorData::new::<f32, _>(pixels, [count, 3, size, size]);
            values = to_vec(network(Tensor::from_data(data, device)));
        }
        let mut parts = values.chunks_exact((values.len() / count.max(1)).max(1));
        rows.extend(
            prepared.into_iter().map(|prepared| {
                prepared.map(|_| parts.next().map_or_else(Vec::new, <[f32]>::to_vec))
            }),
        );
    }
    rows
}

/// A text encoder with its tokenizer.
#[derive(Debug)]
pub(crate) struct TextTower {
    model: ClipTextModel,
    tokenizer: ClipTokenizer,
    device: Device,
}

impl TextTower {
    /// Embeddings of texts, each different one once; not normalised.
    pub(crate) fn embed<'a>(&self, prompts: &[&'a str]) -> BTreeMap<&'a str, Vec<f32>> {
        each_text(prompts, |batch| {
            let ids = token_ids(batch, &self.tokenizer, &self.device);
            let out = self.model.forward(ids);
            out.text_embeds.unwrap_or(out.pooled)
        })
    }

    /// How many tokens of a text do not fit.
    pub(crate) fn tokens_cut(&self, prompt: &str) -> usize {
        self.tokenizer.encode(prompt).tokens_cut
    }
}

/// Runs a network on each different text once, in batches.
pub(crate) fn each_text<'a, const D: usize>(
    prompts: &[&'a str],
    network: impl Fn(&[&str]) -> Tensor<D>,
) -> BTreeMap<&'a str, Vec<f32>> {
    let mut texts: BTreeMap<&str, Vec<f32>> = prompts.iter().map(|p| (*p, Vec::new())).collect();
    let unique: Vec<&str> = texts.keys().copied().collect();
    for batch in unique.chunks(BATCH) {
        let rows = to_vec(network(batch));
        for (text, row) in batch.iter().zip(rows.chunks_exact(rows.len() / batch.len())) {
            texts.insert(text, row.to_vec());
        }
    }
    texts
}

/// Token ids `[B, length]`.
pub(crate) fn token_ids(
    texts: &[&str],
    tokenizer: &ClipTokenizer,
    device: &Device,
) -> Tensor<2, Int> {
    let ids: Vec<i32> =
        texts.iter().flat_map(|text| tokenizer.encode(text).ids).map(|id| id as i32).collect();
    Tensor::from_data(TensorData::new(ids, [texts.len(), tokenizer.length()]), device)
}
