//! `config.json` of the text encoders, from the shapes of their weights.

use serde_json::{Value, json};

use super::{Facts, HEAD, unknown};
use crate::ldm::inspect::View;
use crate::ldm::{Family, LdmError};

impl Facts<'_> {
    pub(super) fn text(&self) -> Result<Value, LdmError> {
        if self.family == Family::Sd2 {
            return self.open_clip(self.text, "text_encoder/config.json", "CLIPTextModel");
        }
        let t = self.text;
        let level =
            if t.has("text_model.embeddings.token_embedding.weight") { "text_model." } else { "" };
        let at = |name: &str| format!("{level}{name}");
        let layers = t.count(|n| at(&format!("encoder.layers.{n}.layer_norm1.weight")));
        let embedding = at("embeddings.token_embedding.weight");
        let sizes = TextSizes {
            vocab: t.size(&embedding, 0),
            width: t.size(&embedding, 1),
            inner: t.size(&at("encoder.layers.0.mlp.fc1.weight"), 0),
            length: t.size(&at("embeddings.position_embedding.weight"), 0),
            layers,
            projection: t.size(&embedding, 1),
        };
        sizes.config("quick_gelu", "text_encoder/config.json", "CLIPTextModel")
    }

    pub(super) fn text_2(&self) -> Result<Value, LdmError> {
        let class = "CLIPTextModelWithProjection";
        self.open_clip(self.text_2, "text_encoder_2/config.json", class)
    }

    fn open_clip(
        &self,
        t: View<'_>,
        file: &'static str,
        class: &'static str,
    ) -> Result<Value, LdmError> {
        let blocks = t.count(|n| format!("transformer.resblocks.{n}.ln_1.weight"));
        let left_out = usize::from(self.family == Family::Sd2 && blocks == 24);
        let width = t.size("token_embedding.weight", 1);
        let projection = t.size("text_projection", 1);
        let sizes = TextSizes {
            vocab: t.size("token_embedding.weight", 0),
            width,
            inner: t.size("transformer.resblocks.0.mlp.c_fc.weight", 0),
            length: t.size("positional_embedding", 0),
            layers: blocks - left_out,
            projection: if projection == 0 { width } else { projection },
        };
        sizes.config("gelu", file, class)
    }
}

struct TextSizes {
    vocab: usize,
    width: usize,
    inner: usize,
    length: usize,
    layers: usize,
    projection: usize,
}

impl TextSizes {
    fn config(self, act: &str, file: &'static str, class: &str) -> Result<Value, LdmError> {
        if self.width == 0 || !self.width.is_multiple_of(HEAD) {
            let why = format!("heads of width {HEAD} do not divide the width {}", self.width);
            return Err(unknown("num_attention_heads", why, file));
        }
        Ok(json!({
            "architectures": [class],
            "model_type": "clip_text_model",
            "vocab_size": self.vocab,
            "hidden_size": self.width,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.width / HEAD,
            "max_position_embeddings": self.length,
            "hidden_act": act,
            "layer_norm_eps": 1e-5,
            "projection_dim": self.projection,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "pad_token_id": 1,
        }))
    }
}
