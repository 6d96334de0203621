//! Adapters as PEFT, diffusers of all ages and other tools save them.

#[path = "torch_file.rs"]
mod torch_file;

use std::collections::BTreeMap;

use craft_store::tensors::{self, Dtype, Tensor};
use serde_json::{Value, json};

use crate::support::{Tiny, WIDTH};
use torch_file::torch_save;

type Tensors = BTreeMap<String, Tensor>;
/// A tensor's name, of a module and whether it is its down.
type Form<'a> = &'a dyn Fn(&str, bool) -> String;

const BLOCK: &str = "down_blocks.1.attentions.0.transformer_blocks.0";
/// Modules of the tiny model's denoiser with their inputs, all of 8 outputs.
const UNET: [(&str, usize); 4] =
    [("attn1.to_q", 8), ("attn1.to_out.0", 8), ("attn2.to_k", WIDTH), ("attn2.to_v", WIDTH)];
const TEXT: [&str; 4] = ["q_proj", "k_proj", "v_proj", "out_proj"];
const RANK: usize = 4;

fn factor(shape: [usize; 2], seed: usize) -> Tensor {
    let value = |i: usize| ((i * 37 + seed * 101) % 89) as f32 / 89.0 - 0.5;
    Tensor::new(shape, (0..shape[0] * shape[1]).map(value).collect()).unwrap()
}

/// Factors of the denoiser: dotted module, down, up.
fn unet() -> Vec<(String, Tensor, Tensor)> {
    let modules = UNET.iter().enumerate();
    let one = |(i, (name, inputs)): (usize, &(&str, usize))| {
        (format!("{BLOCK}.{name}"), factor([RANK, *inputs], i), factor([8, RANK], i + 9))
    };
    modules.map(one).collect()
}

/// The same of the text encoder.
fn text() -> Vec<(String, Tensor, Tensor)> {
    let one = |(i, name): (usize, &&str)| {
        let module = format!("text_model.encoder.layers.0.self_attn.{name}");
        (module, factor([RANK, WIDTH], i + 20), factor([WIDTH, RANK], i + 30))
    };
    TEXT.iter().enumerate().map(one).collect()
}

/// Tensors under the names that `name(module, whether it is down)` gives.
fn named(factors: &[(String, Tensor, Tensor)], name: impl Fn(&str, bool) -> String) -> Tensors {
    let mut out = Tensors::new();
    for (module, down, up) in factors {
        out.insert(name(module, true), down.clone());
        out.insert(name(module, false), up.clone());
    }
    out
}

fn peft(factors: &[(String, Tensor, Tensor)]) -> Tensors {
    named(factors, |module, down| {
        format!("base_model.model.{module}.lora_{}.weight", if down { "A" } else { "B" })
    })
}

/// The file of sd-scripts of these factors, whose alpha is `scale(module)` times the rank.
fn kohya(tiny: &Tiny, name: &str, scale: impl Fn(&str) -> f32) {
    write(tiny, name, &flat("lora_unet", &unet(), scale));
}

fn flat(
    prefix: &str,
    factors: &[(String, Tensor, Tensor)],
    scale: impl Fn(&str) -> f32,
) -> Tensors {
    let stem = |module: &str| format!("{prefix}_{}", module.replace('.', "_"));
    let mut all = named(factors, |module, down| {
        format!("{}.lora_{}.weight", stem(module), if down { "down" } else { "up" })
    });
    for (module, _, _) in factors {
        let alpha = Tensor::new([], vec![scale(module) * RANK as f32]).unwrap();
        all.insert(format!("{}.alpha", stem(module)), alpha);
    }
    all
}

fn write(tiny: &Tiny, name: &str, tensors: &Tensors) {
    let path = tiny.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    if name.ends_with(".bin") {
        std::fs::write(path, torch_save(tensors)).unwrap();
    } else {
        tensors::write_map(&path, tensors, Dtype::F32).unwrap();
    }
}

fn config(more: &Value) -> String {
    let mut all = json!({
        "peft_type": "LORA", "task_type": null, "base_model_name_or_path": null, "r": RANK,
        "lora_alpha": 16, "target_modules": ["to_q", "to_v"], "fan_in_fan_out": false, "bias": "none",
        "modules_to_save": null, "init_lora_weights": false, "use_rslora": false, "use_dora": false,
        "rank_pattern": {}, "alpha_pattern": {}, "lora_dropout": 0.0,
    });
    for (key, value) in more.as_object().unwrap() {
        all[key] = value.clone();
    }
    all.to_string()
}

#[track_caller]
fn latents(tiny: &Tiny, lora: &[&str]) -> Vec<f32> {
    let args = ["-q", "sample", "--model", "model", "--prompt", "a red circle", "--steps", "2"];
    let dump = ["--guidance-scale", "2", "--dump-latents", "l.safetensors"];
    let lora: Vec<&str> = lora.iter().flat_map(|file| ["--lora", file]).collect();
    tiny.expect(&[&args[..], &dump, &lora].concat(), 0, &[]);
    tensors::read(&tiny.path("l.safetensors")).unwrap().remove("latents").unwrap().data
}

#[track_caller]
fn refused(tiny: &Tiny, lora: &str, words: &[&str]) {
    let args = ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--lora", lora];
    tiny.expect(&args, 3, words);
    assert!(!tiny.path("sample.png").exists());
}

#[test]
fn an_adapter_of_peft_is_scaled_by_its_config() {
    let tiny = Tiny::new();
    let plain = latents(&tiny, &[]);
    write(&tiny, "d/adapter_model.safetensors", &peft(&unet()));
    for (more, scale) in [
        (json!({}), [4.0; 2]),
        (json!({ "use_rslora": true }), [8.0; 2]),
        (
            json!({ "lora_alpha": 2, "alpha_pattern": { "attn2.to_k": 8, "to_[a-z]+": 6 } }),
            [2.0, 1.5],
        ),
        (json!({ "r": 2, "rank_pattern": { "to_.*": RANK }, "lora_alpha": 2 }), [0.5; 2]),
    ] {
        tiny.write("d/adapter_config.json", config(&more));
        // `to_out.0` ends in no pattern of the third case.
        let of = |module: &str| match module {
            m if m.ends_with("attn2.to_k") => scale[0],
            m if m.ends_with("to_out.0") && scale[0] != scale[1] => 0.5,
            _ => scale[1],
        };
        kohya(&tiny, "k.safetensors", of);
        let expected = latents(&tiny, &["k.safetensors"]);
        assert_ne!(expected, plain);
        for name in ["d", "d/", "d/adapter_model.safetensors", "d/adapter_config.json"] {
            if name != "d/adapter_config.json" || more == json!({}) {
                let given = if name == "d/adapter_config.json" {
                    format!("{name}:1")
                } else {
                    name.to_owned()
                };
                assert_eq!(latents(&tiny, &[&given]), expected, "{name}, {more}");
            }
        }
    }
    tiny.write("d/adapter_config.json", config(&json!({})));
    kohya(&tiny, "k.safetensors", |_| 4.0);
    assert_eq!(latents(&tiny, &["d:0.7"]), latents(&tiny, &["k.safetensors:0.7"]));
    // Without its config alpha is the rank, and that is said.
    std::fs::remove_file(tiny.path("d/adapter_config.json")).unwrap();
    kohya(&tiny, "k.safetensors", |_| 1.0);
    assert_eq!(latents(&tiny, &["d"]), latents(&tiny, &["k.safetensors"]));
    let args = ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--lora", "d"];
    tiny.expect(&args, 0, &["adapter_config.json", "alpha"]);
}

#[test]
fn an_adapter_is_the_same_in_every_form() {
    let tiny = Tiny::new();
    kohya(&tiny, "k.safetensors", |_| 4.0);
    let expected = latents(&tiny, &["k.safetensors"]);
    let half = |down| if down { "lora_A" } else { "lora_B" };
    let forms: [(&str, Form); 5] = [
        ("default", &|m, d| format!("base_model.model.{m}.{}.default.weight", half(d))),
        ("style", &|m, d| format!("{m}.{}.style.weight", half(d))),
        ("bare", &|m, d| format!("{m}.{}.weight", half(d))),
        ("prefixed", &|m, d| format!("unet.{m}.{}.weight", half(d))),
        ("wrapped", &|m, d| format!("unet.base_model.model.{m}.{}.weight", half(d))),
    ];
    for (name, form) in forms {
        for ending in ["safetensors", "bin"] {
            let dir = format!("{name}-{ending}");
            write(&tiny, &format!("{dir}/adapter_model.{ending}"), &named(&unet(), form));
            tiny.write(&format!("{dir}/adapter_config.json"), config(&json!({})));
            assert_eq!(latents(&tiny, &[&dir]), expected, "{dir}");
        }
    }
    // PEFT saves an adapter that is not called `default` in a folder of its name.
    write(&tiny, "named/style/adapter_model.safetensors", &peft(&unet()));
    tiny.write("named/style/adapter_config.json", config(&json!({})));
    assert_eq!(latents(&tiny, &["named"]), expected);
    // Its own training script saves a folder for each network.
    write(&tiny, "both/unet/adapter_model.safetensors", &peft(&unet()));
    tiny.write("both/unet/adapter_config.json", config(&json!({})));
    write(&tiny, "both/text_encoder/adapter_model.bin", &peft(&text()));
    tiny.write("both/text_encoder/adapter_config.json", config(&json!({ "lora_alpha": 2 })));
    write(&tiny, "t.safetensors", &flat("lora_te", &text(), |_| 0.5));
    let expected = latents(&tiny, &["k.safetensors", "t.safetensors"]);
    assert_eq!(latents(&tiny, &["both"]), expected);
    assert_eq!(latents(&tiny, &["both/unet", "both/text_encoder"]), expected);
    // What a run starts from depends on the settings, too.
    let text = std::fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    tiny.write(
        "recipe.toml",
        text.replace("path = \"model\"", "path = \"model\"\nlora = \"both:0.5\""),
    );
    let run = ["run", "recipe.toml", "--out", "out", "--dry-run"];
    tiny.expect(&run, 0, &[]);
}

#[test]
fn names_of_older_diffusers_are_read() {
    let tiny = Tiny::new();
    kohya(&tiny, "k.safetensors", |_| 1.0);
    write(&tiny, "t.safetensors", &flat("lora_te", &text(), |_| 1.0));
    let expected = latents(&tiny, &["k.safetensors"]);
    let side = |down| if down { "down" } else { "up" };
    let processor = |prefix: &str, m: &str, d: bool| {
        let (attention, projection) = m.rsplit_once(".to_").unwrap();
        let projection = projection.trim_end_matches(".0");
        format!("{prefix}{attention}.processor.to_{projection}_lora.{}.weight", side(d))
    };
    for prefix in ["", "unet."] {
        for name in ["p.safetensors", "p.bin", "f/pytorch_lora_weights.bin"] {
            write(&tiny, name, &named(&unet(), |m, d| processor(prefix, m, d)));
            assert_eq!(latents(&tiny, &[name]), expected, "{prefix} {name}");
        }
    }
    assert_eq!(latents(&tiny, &["f"]), expected);
    // With the alphas that older versions kept beside them.
    let mut all = named(&unet(), |m, d| processor("unet.", m, d));
    for (module, _, _) in unet() {
        let key = processor("unet.", &module, true).replace(".down.weight", ".alpha");
        all.insert(key, Tensor::new([], vec![2.0]).unwrap());
    }
    write(&tiny, "p.safetensors", &all);
    kohya(&tiny, "half.safetensors", |_| 0.5);
    assert_eq!(latents(&tiny, &["p.safetensors"]), latents(&tiny, &["half.safetensors"]));
    // Text encoders.
    let expected = latents(&tiny, &["t.safetensors"]);
    let old = |m: &str| {
        ["q", "k", "v", "out"]
            .iter()
            .fold(m.to_owned(), |m, p| m.replace(&format!("{p}_proj"), &format!("to_{p}")))
    };
    let forms: [Form; 4] = [
        &|m, d| format!("text_encoder.{m}.lora_linear_layer.{}.weight", side(d)),
        &|m, d| format!("text_encoder.{}_lora.{}.weight", old(m), side(d)),
        &|m, d| format!("{}_lora.{}.weight", old(m), side(d)),
        &|m, d| {
            format!(
                "text_encoder.{}.lora_{}.weight",
                m.trim_start_matches("text_model."),
                if d { "A" } else { "B" }
            )
        },
    ];
    for (i, form) in forms.into_iter().enumerate() {
        for name in ["o.safetensors", "o.bin"] {
            write(&tiny, name, &named(&text(), form));
            assert_eq!(latents(&tiny, &[name]), expected, "form {i}, {name}");
        }
    }
}

#[test]
fn a_convolution_in_tucker_form_is_its_product() {
    let tiny = Tiny::new();
    let (down, up) = (factor([RANK, 8], 1), factor([8, RANK], 2));
    let mid = Tensor::new([RANK, RANK, 3, 3], factor([RANK * RANK, 9], 3).data).unwrap();
    let mut whole = vec![0f32; RANK * 8 * 9];
    for o in 0..RANK {
        for i in 0..8 {
            for w in 0..9 {
                let sum =
                    (0..RANK).map(|j| mid.data[(o * RANK + j) * 9 + w] * down.data[j * 8 + i]);
                whole[(o * 8 + i) * 9 + w] = sum.sum();
            }
        }
    }
    let key = "lora_unet_down_blocks_1_resnets_0_conv1";
    let part = |name: &str| format!("{key}.{name}");
    let as_conv = |t: &Tensor| Tensor::new([t.shape[0], t.shape[1], 1, 1], t.data.clone()).unwrap();
    let alpha = Tensor::new([], vec![2.0]).unwrap();
    let mut all = Tensors::from([
        (part("lora_down.weight"), as_conv(&down)),
        (part("lora_up.weight"), as_conv(&up)),
        (part("lora_mid.weight"), mid),
        (part("alpha"), alpha),
    ]);
    write(&tiny, "tucker.safetensors", &all);
    all.remove(&part("lora_mid.weight"));
    all.insert(part("lora_down.weight"), Tensor::new([RANK, 8, 3, 3], whole).unwrap());
    write(&tiny, "plain.safetensors", &all);
    let (a, b) = (latents(&tiny, &["tucker.safetensors"]), latents(&tiny, &["plain.safetensors"]));
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-5));
    assert_ne!(a, latents(&tiny, &[]));
}

#[test]
fn what_is_no_plain_lora_is_refused_by_name() {
    let tiny = Tiny::new();
    write(&tiny, "d/adapter_model.safetensors", &peft(&unet()));
    for (more, words) in [
        (json!({ "use_dora": true }), &["adapter_config.json", "use_dora", "DoRA"][..]),
        (json!({ "peft_type": "LOHA" }), &["LOHA", "merge_and_unload"]),
        (json!({ "peft_type": "LOKR" }), &["LOKR"]),
        (json!({ "peft_type": "IA3" }), &["IA3"]),
        (json!({ "peft_type": "OFT" }), &["OFT"]),
        (json!({ "bias": "all" }), &["bias", "\"all\""]),
        (json!({ "modules_to_save": ["conv_in"] }), &["modules_to_save"]),
        (json!({ "r": 8 }), &["adapter_config.json", "rank 8", "rank 4"]),
        (json!({ "init_lora_weights": "pissa" }), &["pissa"]),
        (json!({ "alpha_pattern": { "*": 1 } }), &["alpha_pattern", "regular expression"]),
    ] {
        tiny.write("d/adapter_config.json", config(&more));
        refused(&tiny, "d", words);
    }
    for text in ["", "[]", "{", "null"] {
        tiny.write("d/adapter_config.json", text);
        refused(&tiny, "d", &["adapter_config.json", "JSON"]);
    }
    let module = format!("lora_unet_{}_attn1_to_q", BLOCK.replace('.', "_"));
    let dotted = format!("base_model.model.{BLOCK}.attn1.to_q");
    for (key, words) in [
        (format!("{module}.hada_w1_a"), &["LoHa", "merge it"][..]),
        (format!("{module}.lokr_w1"), &["LoKr"]),
        (format!("{module}.oft_diag"), &["OFT"]),
        (format!("{module}.a1.weight"), &["GLoRA"]),
        (format!("{module}.diff"), &["full differences"]),
        (format!("{module}.diff_b"), &["full differences"]),
        (format!("{module}.w_norm"), &["norms"]),
        (format!("{module}.on_input"), &["IA3"]),
        (format!("{module}.dora_scale"), &["DoRA"]),
        (format!("{dotted}.lora_magnitude_vector"), &["DoRA"]),
        (format!("{dotted}.lora_magnitude_vector.weight"), &["DoRA"]),
        (format!("{dotted}.base_layer.weight"), &["save_pretrained"]),
        (format!("{dotted}.lora_B.bias"), &["lora_bias"]),
        ("base_model.model.conv_in.modules_to_save.weight".to_owned(), &["modules_to_save"]),
        ("base_model.model.conv_in.bias".to_owned(), &["biases"]),
        ("bundle_emb.cat.string_to_param.*".to_owned(), &["textual inversion"]),
        (format!("{module}.something"), &["no kind of LoRA that is known"]),
    ] {
        let mut all = flat("lora_unet", &unet(), |_| 1.0);
        all.insert(key.clone(), factor([2, 3], 1));
        write(&tiny, "k.safetensors", &all);
        refused(&tiny, "k.safetensors", &[&["k.safetensors", &key], words].concat());
    }
    // Other files altogether.
    for (keys, words) in [
        (&["emb_params"][..], &["textual inversion"][..]),
        (&["<cat-toy>"], &["textual inversion"]),
        (&["clip_l", "clip_g"], &["textual inversion"]),
        (&["string_to_param.*"], &["textual inversion"]),
        (
            &["model.diffusion_model.out.2.weight", "first_stage_model.quant_conv.bias"],
            &["checkpoint", "--model"],
        ),
        (&["conv_in.weight", "conv_in.bias"], &["own weights"]),
        (&["control_model.input_hint_block.0.weight"], &["ControlNet"]),
        (&["image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"], &["IP-Adapter"]),
    ] {
        for name in ["e.safetensors", "e.bin"] {
            let all: Tensors =
                keys.iter().map(|key| ((*key).to_owned(), factor([1, 8], 1))).collect();
            write(&tiny, name, &all);
            refused(&tiny, name, &[&[name], words].concat());
        }
    }
    let mut two =
        named(&unet(), |m, d| format!("{m}.lora_{}.one.weight", if d { "A" } else { "B" }));
    two.extend(named(&unet(), |m, d| format!("{m}.lora_{}.two.weight", if d { "A" } else { "B" })));
    write(&tiny, "k.safetensors", &two);
    refused(&tiny, "k.safetensors", &["several adapters", "one, two"]);
}

#[test]
fn a_folder_without_one_lora_says_what_it_holds() {
    let tiny = Tiny::new();
    std::fs::create_dir(tiny.path("empty")).unwrap();
    refused(&tiny, "empty", &["empty", "no LoRA", "adapter_model.safetensors"]);
    refused(&tiny, "model", &["model's folder"]);
    refused(&tiny, "gone", &["gone"]);
    for name in ["many/a.safetensors", "many/b.safetensors"] {
        write(&tiny, name, &flat("lora_unet", &unet(), |_| 1.0));
    }
    refused(&tiny, "many", &["2 LoRA files", "a.safetensors, b.safetensors"]);
    std::fs::remove_file(tiny.path("many/b.safetensors")).unwrap();
    assert_eq!(latents(&tiny, &["many"]), latents(&tiny, &["many/a.safetensors"]));
}

#[test]
fn a_picture_tells_a_lora_by_name_and_a_model_in_quotes() {
    let tiny = Tiny::new();
    kohya(&tiny, "loras/style.safetensors", |_| 1.0);
    std::fs::rename(tiny.path("model"), tiny.path("my, model: v2")).unwrap();
    let lora = format!("{}:0.8", tiny.path("loras/style.safetensors").display());
    let model = ["sample", "--model", "my, model: v2", "--steps", "1", "--output", "a.png"];
    let rest = ["--prompt", "a red circle", "--lora", &lora, "--negative-prompt", "blurry"];
    tiny.expect(&[&model[..], &rest].concat(), 0, &[]);
    let text = craft_store::image::read_parameters(&tiny.path("a.png")).unwrap().unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "a red circle <lora:style:0.8>");
    assert_eq!(lines[1], "Negative prompt: blurry");
    assert!(lines[2].contains(", Model: \"my, model: v2\", Version: craft "), "{text}");
    assert!(!text.contains("loras") && !text.contains("Lora"), "{text}");
}
