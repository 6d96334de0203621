//! What a training learns from: samples, what they are worth, and texts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use craft_model::Model;
use craft_model::condition::TextEmbedding;
use craft_model::text::Tokens;

/// A text for the denoiser.
#[derive(Clone, Debug, Default)]
pub struct Text {
    /// For text encoders that are trained.
    pub tokens: Tokens,
    /// By the base model's text encoders.
    pub embedding: TextEmbedding,
}

impl Text {
    /// Texts of prompts.
    pub fn of(model: &Model, texts: &[&str]) -> Vec<Self> {
        let tokens = texts.iter().map(|text| model.tokens(text));
        let each = tokens.zip(model.encode_texts(texts));
        each.map(|(tokens, embedding)| Self { tokens, embedding }).collect()
    }

    /// What the model was trained with for a negative text; `None`: for no text, which may be zeros.
    pub fn negative(model: &Model, text: Option<&str>) -> Self {
        let embedding = model.encode_negatives(&[text]).remove(0);
        Self { tokens: model.tokens(text.unwrap_or_default()), embedding }
    }

    /// Whether the model reads zeros instead of this text.
    pub fn is_zero(&self) -> bool {
        self.embedding.states.iter().all(|v| *v == 0.0)
    }
}

/// Texts that were encoded, each once.
#[derive(Debug, Default)]
pub struct Texts(Mutex<BTreeMap<String, Arc<Text>>>);

impl Texts {
    /// These texts, encoded now where they were not before. The empty text is what the model reads for no text.
    pub fn of<'t>(
        &self,
        model: &Model,
        texts: impl Iterator<Item = &'t str>,
    ) -> BTreeMap<String, Arc<Text>> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<&str> = texts.filter(|text| !text.is_empty()).collect();
        let new: Vec<&str> =
            wanted.iter().copied().filter(|text| !known.contains_key(*text)).collect();
        for (text, encoded) in new.iter().zip(Text::of(model, &new)) {
            known.insert((*text).to_owned(), Arc::new(encoded));
        }
        let empty = known.entry(String::new());
        empty.or_insert_with(|| Arc::new(Text::negative(model, None)));
        let wanted = wanted.into_iter().chain([""]);
        wanted.map(|text| (text.to_owned(), known[text].clone())).collect()
    }
}

/// A picture to train on.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its id, for messages.
    pub id: String,
    /// Its latents, channels · rows · columns; empty for prompts of methods that draw as they go.
    pub latents: Vec<f32>,
    /// The plain prompt.
    pub original: String,
    /// The expansion that it was drawn from.
    pub expanded: String,
}

/// Samples that share a timestep and a noise: one picture, a pair (preferred first) or a group, each with
/// the number that the objective takes of it: a weight, an advantage, or 1 for liked and 0 for disliked.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    /// Places in the samples.
    pub samples: Vec<usize>,
    /// A number each.
    pub values: Vec<f32>,
}

/// A training set.
#[derive(Clone, Debug)]
pub struct Set {
    /// The samples.
    pub samples: Vec<Sample>,
    /// All of one length.
    pub units: Vec<Unit>,
    /// All texts of the samples, and the empty one, which stands for no text.
    pub texts: BTreeMap<String, Arc<Text>>,
}

impl Set {
    /// A set whose texts are encoded by a model, or were before.
    pub fn new(samples: Vec<Sample>, units: Vec<Unit>, model: &Model, texts: &Texts) -> Self {
        let all = samples.iter().flat_map(|s| [s.original.as_str(), s.expanded.as_str()]);
        let texts = texts.of(model, all);
        Self { samples, units, texts }
    }

    /// Samples of a unit.
    pub fn unit_length(&self) -> usize {
        self.units.first().map_or(1, |u| u.samples.len())
    }

    /// Different samples in the units.
    pub fn used(&self) -> usize {
        let used: BTreeSet<usize> =
            self.units.iter().flat_map(|u| u.samples.iter().copied()).collect();
        used.len()
    }

    /// The text of a sample; the empty one where it is not among the texts.
    pub fn text(&self, text: &str) -> &Text {
        match self.texts.get(text) {
            Some(found) => found,
            None => &self.texts[""],
        }
    }
}
