//! Schedules, default sizes, single files and hubs.

use std::fs;
use std::path::Path;

use craft_store::{image, tensors};
use serde_json::{Value, json};

use crate::checkpoint;
use crate::support::Tiny;

/// Final latents of a drawing of the tiny model.
fn latents(tiny: &Tiny, model: &str, more: &[&str]) -> Vec<f32> {
    let base = [
        "-q",
        "sample",
        "--model",
        model,
        "--prompt",
        "a red circle",
        "--seed",
        "3",
        "--output",
        "a.png",
        "--dump-latents",
        "l.safetensors",
    ];
    tiny.expect(&[&base[..], more].concat(), 0, &[]);
    tensors::read(&tiny.path("l.safetensors")).unwrap().remove("latents").unwrap().data
}

fn edit(tiny: &Tiny, path: &str, change: impl FnOnce(&mut Value)) {
    let mut value: Value =
        serde_json::from_str(&fs::read_to_string(tiny.path(path)).unwrap()).unwrap();
    change(&mut value);
    tiny.write(path, value.to_string());
}

const SCHEDULER: &str = "model/scheduler/scheduler_config.json";

/// A scheduler's file over the tiny model's betas; null keys are left out.
fn scheduler(tiny: &Tiny, keys: &Value) {
    let mut file = json!({
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000, "set_alpha_to_one": false,
    });
    for (key, value) in keys.as_object().unwrap() {
        file[key] = value.clone();
    }
    tiny.write(SCHEDULER, file.to_string());
}

/// `StableDiffusionPipeline` corrects `steps_offset` and `clip_sample` of its scheduler's file.
#[test]
fn scheduler_files_are_corrected_as_their_pipeline_corrects_them() {
    let tiny = Tiny::new();
    let drawn = |keys: Value, sampler: &[&str]| {
        scheduler(&tiny, &keys);
        latents(&tiny, "model", &[&["--steps", "4"], sampler].concat())
    };
    let ddim = "DDIMScheduler";
    let right = drawn(json!({"_class_name": ddim, "steps_offset": 1, "clip_sample": false}), &[]);
    for keys in [
        json!({"_class_name": ddim, "steps_offset": 1, "clip_sample": true}),
        json!({"_class_name": ddim, "steps_offset": 0, "clip_sample": false}),
        json!({"_class_name": ddim, "steps_offset": 1}),
        json!({"_class_name": ddim, "clip_sample": false}),
        json!({"_class_name": ddim}),
        json!({"_class_name": "DDPMScheduler", "steps_offset": 0, "clip_sample": true}),
        json!({"_class_name": "PNDMScheduler", "steps_offset": 0, "clip_sample": true}),
    ] {
        assert_eq!(drawn(keys.clone(), &[]), right, "{keys}");
    }
    // A key that the file of another class lacks keeps the sampler's own default.
    for keys in [
        json!({"_class_name": "PNDMScheduler", "clip_sample": false}),
        json!({"_class_name": "DDPMScheduler", "steps_offset": 1}),
    ] {
        assert_ne!(drawn(keys.clone(), &[]), right, "{keys}");
    }
    // The class that the model's index names is the one that counts.
    edit(&tiny, "model/model_index.json", |index| index["scheduler"] = json!(["diffusers", ddim]));
    assert_eq!(drawn(json!({"_class_name": "PNDMScheduler"}), &[]), right);
    let euler = ["--scheduler", "euler"];
    let class = "EulerDiscreteScheduler";
    edit(&tiny, "model/model_index.json", |index| index["scheduler"] = json!(["diffusers", class]));
    let leading = json!({"timestep_spacing": "leading"});
    let one = json!({"timestep_spacing": "leading", "steps_offset": 1});
    assert_eq!(drawn(leading, &euler), drawn(one, &euler));
}

/// Files of 2022 say half the size of what the model was trained for.
#[test]
fn the_default_size_is_that_of_diffusers() {
    let tiny = Tiny::new();
    let size = |size: Value, version: &str| {
        edit(&tiny, "model/unet/config.json", |config| {
            config["sample_size"] = size;
            config["_diffusers_version"] = json!(version);
        });
        latents(&tiny, "model", &["--steps", "1"]);
        let drawn = image::read(&tiny.path("a.png")).unwrap();
        (drawn.height, drawn.width)
    };
    assert_eq!(size(json!(32), "0.2.2"), (128, 128));
    assert_eq!(size(json!(32), "0.10.2"), (64, 64));
    assert_eq!(size(json!([16, 24]), "0.2.2"), (32, 48));
}

#[test]
fn a_model_made_for_another_sampler_says_so() {
    let tiny = Tiny::new();
    let says = |keys: Value, more: &[&str]| {
        scheduler(&tiny, &keys);
        let base = ["sample", "--model", "model", "--prompt", "x", "--output", "a.png"];
        let steps: &[&str] = if more.contains(&"--steps") { &[] } else { &["--steps", "2"] };
        let output = tiny.craft(&[&base[..], steps, more].concat()).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        (output.status.code().unwrap(), text)
    };
    for class in ["LCMScheduler", "TCDScheduler"] {
        let (code, text) = says(json!({"_class_name": class}), &[]);
        assert!(code == 0 && text.contains(class) && text.contains("ddim"), "{text}");
        assert!(text.to_lowercase().contains("warn"), "{text}");
        let (_, text) = says(json!({"_class_name": class}), &["--scheduler", "ddim"]);
        assert!(!text.contains(class), "{text}");
    }
    // Also where only the file says so.
    edit(&tiny, "model/model_index.json", |index| {
        index["scheduler"] = json!(["diffusers", "PNDMScheduler"]);
    });
    let (_, text) = says(json!({"_class_name": "LCMScheduler"}), &[]);
    assert!(text.contains("LCMScheduler") && !text.contains("PNDM"), "{text}");
    edit(&tiny, "model/model_index.json", |index| {
        drop(index.as_object_mut().unwrap().remove("scheduler"))
    });
    let turbo = json!({
        "_class_name": "EulerAncestralDiscreteScheduler", "timestep_spacing": "trailing",
    });
    let (_, text) = says(turbo.clone(), &[]);
    assert!(text.contains("turbo") && text.contains("--scheduler euler-a"), "{text}");
    let (_, text) =
        says(turbo, &["--scheduler", "euler-a", "--steps", "2", "--guidance-scale", "1"]);
    assert!(!text.contains("turbo"), "{text}");
    for class in ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler", "IPNDMScheduler"] {
        let (code, text) = says(json!({"_class_name": class}), &[]);
        assert!(code == 3 && text.contains(class) && text.contains("DDIMScheduler"), "{text}");
    }
    // A run says it once.
    scheduler(&tiny, &json!({"_class_name": "LCMScheduler"}));
    let output = tiny.craft(&["run", "recipe.toml", "--out", "out"]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("LCMScheduler").count(), 1, "{text}");
    assert!(text.contains("generate.steps"), "{text}");
}

const SMALL: [&str; 6] = ["--steps", "3", "--height", "16", "--width", "16"];

/// The binary carries CLIP's vocabulary; a single file needs no network and no folder of configs.
#[test]
fn a_single_file_is_drawn_with_the_embedded_vocabulary() {
    let tiny = Tiny::new();
    checkpoint::write(&tiny.path("file.safetensors"), &[], &[], |_| ());
    latents(&tiny, "file.safetensors", &SMALL);
    let [copy] = &checkpoint::copies(&tiny.path("cache"))[..] else { panic!("one copy") };
    let read = |path: &str| -> Value {
        serde_json::from_str(&fs::read_to_string(copy.join(path)).unwrap()).unwrap()
    };
    assert_eq!(read("tokenizer/tokenizer_config.json")["pad_token"], "<|endoftext|>");
    assert_eq!(read("tokenizer/vocab.json")["cat</w>"], 2368);
    assert_eq!(read("scheduler/scheduler_config.json")["timestep_spacing"], "leading");
    // The copy is a model folder.
    let (file, folder) = (latents(&tiny, "file.safetensors", &SMALL), copy.to_str().unwrap());
    assert_eq!(file, latents(&tiny, folder, &SMALL));
}

/// A model of v whose schedule was rescaled to a terminal signal-to-noise ratio of zero begins at the last
/// timestep.
#[test]
fn marks_of_v_prediction_change_the_schedule() {
    let tiny = Tiny::new();
    let found = |name: &str, marks: &[&str], metadata: &[(&str, &str)]| -> (String, bool, String) {
        let file = format!("{name}.safetensors");
        checkpoint::write(&tiny.path(&file), marks, metadata, |_| ());
        latents(&tiny, &file, &SMALL);
        let copies = checkpoint::copies(&tiny.path("cache"));
        let here =
            |p: &&std::path::PathBuf| p.file_name().unwrap().to_str().unwrap().starts_with(name);
        let path = copies.iter().find(here).unwrap().join("scheduler/scheduler_config.json");
        let value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        let zero = value["rescale_betas_zero_snr"].as_bool().unwrap();
        (text("prediction_type"), zero, text("timestep_spacing"))
    };
    let is =
        |prediction: &str, zero, spacing: &str| (prediction.to_owned(), zero, spacing.to_owned());
    let (v, eps) = ("v_prediction", "epsilon");
    assert_eq!(found("both", &["v_pred", "ztsnr"], &[]), is(v, true, "trailing"));
    assert_eq!(found("vpred", &["v_pred"], &[]), is(v, false, "leading"));
    assert_eq!(found("ztsnr", &["ztsnr"], &[]), is(eps, false, "leading"));
    let said = [("modelspec.prediction_type", "v")];
    assert_eq!(found("header", &["ztsnr"], &said), is(v, true, "trailing"));
    let trained = [("ss_v_parameterization", "True"), ("ss_zero_terminal_snr", "True")];
    assert_eq!(found("trained", &[], &trained), is(v, true, "trailing"));
}

/// A file in the place of another of its length and time is not taken for it.
#[test]
fn a_replaced_single_file_is_noticed() {
    let tiny = Tiny::new();
    let path = tiny.path("file.safetensors");
    checkpoint::write(&path, &[], &[], |_| ());
    let (length, time) = about(&path);
    let old = latents(&tiny, "file.safetensors", &SMALL);
    checkpoint::write(&path, &[], &[], |all| {
        let tensor = all.get_mut("model.diffusion_model.out.2.weight").unwrap();
        tensor.data.iter_mut().for_each(|x| *x *= 1.5);
    });
    fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    assert_eq!(about(&path), (length, time));
    let new = latents(&tiny, "file.safetensors", &SMALL);
    assert_ne!(new, old);
    assert_eq!(new, latents(&tiny, "file.safetensors", &SMALL));
    assert_eq!(checkpoint::copies(&tiny.path("cache")).len(), 2);
}

fn about(path: &Path) -> (u64, std::time::SystemTime) {
    let about = path.metadata().unwrap();
    (about.len(), about.modified().unwrap())
}

/// An exported file keeps the marks, and with them the schedule of its model.
#[test]
fn an_exported_file_keeps_the_marks_of_v_prediction() {
    let tiny = Tiny::new();
    edit(&tiny, "model/text_encoder/config.json", |config| {
        config["hidden_act"] = json!("quick_gelu");
    });
    scheduler(
        &tiny,
        &json!({
            "_class_name": "DDIMScheduler", "prediction_type": "v_prediction", "clip_sample": false,
            "steps_offset": 1, "rescale_betas_zero_snr": true, "timestep_spacing": "trailing",
        }),
    );
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let export = ["export", "out", "--format", "single-file", "--out", "tuned.safetensors"];
    let says = tiny.expect(&export, 0, &[]);
    assert!(says.contains("differs from the tuned model's by 0.00 of 255"), "{says}");
    let file = tensors::TensorReader::open(&tiny.path("tuned.safetensors")).unwrap();
    for mark in ["v_pred", "ztsnr"] {
        assert_eq!(file.shape(mark), Some([0].as_slice()), "{mark}");
    }
}
