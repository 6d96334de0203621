//! Files that are given as LoRA and are something else, told by the names of their tensors.

use super::LoraError;
use super::names::first;

/// A kind of file, or of adapter, that is not plain LoRA.
struct Kind {
    /// What is in keys of this kind.
    marks: &'static [&'static str],
    /// What it is called.
    name: &'static str,
    /// What its owner can do.
    cure: &'static str,
}

const MERGE: &str =
    "merge it into a checkpoint with the tool that made it, and give that as the model";
const KINDS: [Kind; 17] = [
    Kind {
        marks: &[".dora_scale", ".lora_magnitude_vector"],
        name: "a DoRA adapter, which also scales the rows of the weights",
        cure: "merge it into a checkpoint with the tool that made it and give that as the model, or train it again without DoRA",
    },
    Kind { marks: &[".hada_"], name: "a LoHa adapter (LyCORIS)", cure: MERGE },
    Kind { marks: &[".lokr_"], name: "a LoKr adapter (LyCORIS)", cure: MERGE },
    Kind { marks: &[".oft_", ".boft_"], name: "an OFT adapter", cure: MERGE },
    Kind {
        marks: &[".a1.weight", ".a2.weight", ".b1.weight", ".b2.weight"],
        name: "a GLoRA adapter (LyCORIS)",
        cure: MERGE,
    },
    Kind { marks: &[".ia3_l", ".on_input"], name: "an IA3 adapter", cure: MERGE },
    Kind { marks: &[".vera_"], name: "a VeRA adapter", cure: MERGE },
    Kind {
        marks: &[".diff", ".diff_b", ".diff_m", ".set_weight", ".reshape_weight"],
        name: "full differences of weights (LyCORIS' `full`)",
        cure: MERGE,
    },
    Kind {
        marks: &[".w_norm", ".b_norm"],
        name: "differences of norms beside the factors",
        cure: "merge it into a checkpoint with the tool that made it, or train it again without norms (train_norm)",
    },
    Kind {
        marks: &[".lora_embedding_A", ".lora_embedding_B"],
        name: "factors of a token embedding",
        cure: "train it again without the embedding among its targets",
    },
    Kind {
        marks: &["bundle_emb."],
        name: "embeddings of textual inversion bundled with a LoRA (OneTrainer)",
        cure: "save the LoRA without its embeddings",
    },
    Kind { marks: &["emb_params", "string_to_param."], name: EMBEDDING.0, cure: EMBEDDING.1 },
    Kind {
        marks: &[
            "model.diffusion_model.",
            "first_stage_model.",
            "cond_stage_model.",
            "conditioner.",
        ],
        name: "a whole checkpoint, not a LoRA",
        cure: "give it as the model (`--model`, in a recipe `model.path`)",
    },
    Kind {
        marks: &["control_model.", "controlnet_", "lora_controlnet", "input_hint_block"],
        name: "a ControlNet, not a LoRA",
        cure: "leave it out: ControlNets are not read",
    },
    Kind {
        marks: &["ip_adapter.", "image_proj."],
        name: "an IP-Adapter, not a LoRA",
        cure: "leave it out: IP-Adapters are not read",
    },
    Kind {
        marks: &[".base_layer.", ".modules_to_save.", ".original_module."],
        name: "a network's own weights beside factors (a state of a PEFT model)",
        cure: "save the adapter alone, with `save_pretrained` and without `modules_to_save`",
    },
    Kind {
        marks: &[".lora_A.bias", ".lora_B.bias", ".lora_up.bias", ".lora_down.bias"],
        name: "biases of factors (PEFT's `lora_bias`)",
        cure: "train it again without them",
    },
];
const EMBEDDING: (&str, &str) = (
    "an embedding of textual inversion, not a LoRA",
    "leave it out: embeddings are not read; a LoRA changes the networks instead",
);
const UNKNOWN: &str = "no kind of LoRA that is known";
const EXPECTED: &str = "give a file with pairs of lora_down and lora_up, or lora_A and lora_B";

/// The error for a file with tensors that belong to no LoRA: the keys of these, whether they are
/// the `whole` file, and whether it is `flat`, vectors and matrices by names without a path.
pub(super) fn refuse(others: Vec<String>, whole: bool, flat: bool) -> LoraError {
    let found = KINDS
        .iter()
        .find(|kind| others.iter().any(|key| kind.marks.iter().any(|mark| is_marked(key, mark))));
    let (name, cure) = match found {
        Some(kind) => (kind.name, kind.cure),
        // `learned_embeds.bin` and SDXL's `clip_l`, `clip_g`: a vector or some by the name of a
        // token.
        None if whole && flat => EMBEDDING,
        None if others.iter().all(|key| key.ends_with(".weight") || key.ends_with(".bias")) => (
            "a network's own weights",
            if whole {
                "give the folder of the model that they belong to as the model"
            } else {
                "save the adapter alone, without biases or modules of the network (PEFT: `bias = \"none\"`, no `modules_to_save`)"
            },
        ),
        None => (UNKNOWN, EXPECTED),
    };
    LoraError::Kind { found: name, count: others.len(), keys: first(&others), cure }
}

/// Whether a key has the mark: at its end, its beginning, or as a part that goes on.
fn is_marked(key: &str, mark: &str) -> bool {
    if mark.ends_with('.') || mark.ends_with('_') || !mark.starts_with('.') {
        key.starts_with(mark) || (mark.starts_with('.') && key.contains(mark))
    } else {
        key.ends_with(mark) || key.contains(&format!("{mark}."))
    }
}
