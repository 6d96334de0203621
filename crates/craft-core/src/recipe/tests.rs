use super::*;

const MINIMAL: &str = r#"
[model]
path = "model"
[prompts]
source = "pocket"
[[rewards]]
name = "pocket-hps"
[[rewards]]
name = "pocket-ir"
role = "held-out"
"#;

const NONE: [&str; 0] = [];

fn set(overrides: &[&str]) -> Result<Recipe, RecipeError> {
    Recipe::parse(MINIMAL, overrides)
}

#[test]
fn a_pass_takes_as_many_pictures_as_their_latents_allow() {
    let passes = |keys: &[&str], side: usize| set(keys).unwrap().micro_batch(side * side);
    let batch = ["train.batch=128"];
    assert_eq!([16, 64, 128, 256].map(|side| passes(&batch, side)), [64, 4, 1, 1]);
    assert_eq!(passes(&["train.batch=8"], 16), 8);
    assert_eq!(passes(&["train.batch=128", "train.micro_batch=100"], 64), 100);
}

#[test]
fn the_form_of_the_loss_round_trips_and_is_checked() {
    let recipe =
        set(&["train.method=ram", "train.form.pull=0.5", "train.form.compare=old"]).unwrap();
    assert_eq!(Recipe::parse(&recipe.to_toml(), &NONE).unwrap(), recipe);
    for (keys, said) in [
        (vec!["train.method="], "train.method"),
        (vec!["train.form.pull=-1"], "train.form.pull"),
        (vec!["train.form.pull_to=average"], "train.ema_decay"),
        (vec!["train.form.compare=new"], "train.form.compare"),
    ] {
        let refused = set(&keys).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn defaults_are_those_of_the_paper_and_round_trip() {
    let recipe = set(&[]).unwrap();
    assert_eq!((recipe.train.steps, recipe.train.batch), (120, 128));
    assert_eq!(recipe.train.learning_rate, 5e-5);
    assert_eq!(recipe.select.max_samples, 100);
    assert_eq!(recipe.expand.variants, 4);
    assert!(recipe.control.enabled);
    assert_eq!(recipe.select_options().rewards.len(), 1);
    assert_eq!(recipe.reward_names(RewardRole::HeldOut).len(), 1);
    let text = recipe.to_toml();
    assert!(
        text.contains("learning_rate = 0.00005") || text.contains("learning_rate = 5e-5"),
        "{text}"
    );
    assert_eq!(Recipe::parse(&text, &NONE).unwrap(), recipe);
    assert_eq!(Recipe::parse(&text, &NONE).unwrap().to_toml(), text);
}

#[test]
fn every_option_round_trips() {
    let recipe = set(&[
        "seed=9",
        "prompts.train_count=5",
        "prompts.eval_count=3",
        "expand.kind=file",
        "expand.file=x.jsonl",
        "generate.height=64",
        "generate.width=128",
        "generate.scheduler=dpm++2m",
        "generate.negative_prompt=a = \"b\"",
        "rewards.0.weights=w.safetensors",
        "rewards.pocket-hps.weight=2.5",
        "rewards.pocket-hps.filter=true",
        "select.min_passes=1",
        "select.sign=shifted",
        "select.shift=0.25",
        "select.total=gdpo",
        "select.indicator=prompt",
        "select.statistics=survivors",
        "select.max_per_prompt=2",
        "train.micro_batch=16",
        "train.ema_decay=0.99",
        "train.min_snr_gamma=5",
        "train.timestep_min=10",
        "train.timestep_max=900",
        "train.conditioning=mixed",
        "train.lr_schedule=cosine",
        "control.enabled=false",
        "evaluate.steps=10",
        "evaluate.guidance_scale=4",
    ])
    .unwrap();
    assert_eq!(recipe.rewards[0].weight, 2.5);
    assert_eq!(recipe.generate.scheduler, crate::sampler::dpm::KIND);
    assert_eq!(recipe.generate.negative_prompt, "a = \"b\"");
    assert_eq!(recipe.evaluate_guidance_scale(), 4.0);
    assert_eq!(Recipe::parse(&recipe.to_toml(), &NONE).unwrap(), recipe);
}

#[test]
fn a_list_may_be_written_as_its_only_element() {
    let recipe = set(&[
        "train.mode=lora",
        "train.lora.targets=all",
        "train.lora.text_encoder_targets=q_proj",
        "model.lora=style.safetensors:0.5",
    ])
    .unwrap();
    assert_eq!(recipe.train.lora.targets, ["all"]);
    assert_eq!(recipe.train.lora.text_encoder_targets, ["q_proj"]);
    assert_eq!(recipe.model.lora, ["style.safetensors:0.5"]);
    assert_eq!(Recipe::parse(&recipe.to_toml(), &NONE).unwrap(), recipe);
    let message = set(&["train.mode=lora", "train.lora.targets=3"]).unwrap_err().to_string();
    assert!(message.contains("train.lora.targets") && message.contains("list"), "{message}");
}

#[test]
fn unknown_keys_name_the_nearest() {
    let suggestion = |text: &str| match set(&[text]) {
        Err(RecipeError::UnknownKey { key, suggestion, known }) => {
            assert!(!known.is_empty());
            (key, suggestion)
        }
        other => panic!("{other:?}"),
    };
    for (text, key, near) in [
        ("train.stpes=1", "train.stpes", Some("train.steps")),
        ("train.learning-rate=1", "train.learning-rate", Some("train.learning_rate")),
        ("train.lr=1", "train.lr", None),
        ("trian.steps=1", "trian", Some("train")),
        ("generate.guidance=3", "generate.guidance", Some("generate.guidance_scale")),
        ("generate.learning_rate=3", "generate.learning_rate", Some("train.learning_rate")),
        ("rewards.0.wieght=1", "rewards[0].wieght", Some("rewards[0].weight")),
        ("sed=1", "sed", Some("seed")),
    ] {
        let (found, suggested) = suggestion(text);
        assert_eq!(found, key);
        if near.is_some() {
            assert_eq!(suggested.as_deref(), near);
        }
    }
    let message = set(&["train.stpes=1"]).unwrap_err().to_string();
    assert!(
        message.starts_with("unknown key `train.stpes`: did you mean `train.steps`?"),
        "{message}"
    );
}

#[test]
fn wrong_values_name_key_value_and_what_is_allowed() {
    for (text, key, value) in [
        ("train.steps=0", "train.steps", "0"),
        ("train.steps=-1", "train.steps", "-1"),
        ("train.steps=many", "train.steps", "many"),
        ("train.learning_rate=0", "train.learning_rate", "0"),
        ("train.learning_rate=nan", "train.learning_rate", "NaN"),
        ("train.micro_batch=129", "train.micro_batch", "129"),
        ("train.warmup_steps=121", "train.warmup_steps", "121"),
        ("train.beta2=1.0", "train.beta2", "1"),
        ("train.mode=dora", "train.mode", "dora"),
        ("train.precision=f16", "train.precision", "f16"),
        ("train.lora.rank=8", "train.mode", "full"),
        ("model.lora=[\"\"]", "model.lora[0]", "empty"),
        ("train.timestep_max=-3", "train.timestep_max", "-3"),
        ("generate.height=100", "generate.height", "100"),
        ("generate.scheduler=plms", "generate.scheduler", "plms"),
        ("generate.guidance_scale=inf", "generate.guidance_scale", "inf"),
        ("select.min_passes=2", "select.min_passes", "2"),
        ("select.sign=soft", "select.sign", "soft"),
        ("rewards.0.weight=-1", "rewards[0].weight", "-1"),
        ("rewards.0.name=A B", "rewards[0].name", "A B"),
        ("rewards.1.name=pocket-hps", "rewards[1].name", "pocket-hps"),
        ("rewards.0.role=held-out", "rewards", "none"),
        ("prompts.train=x.txt", "prompts.train", "x.txt"),
        ("prompts.source=file", "prompts.train", "missing"),
        ("expand.kind=file", "expand.file", "missing"),
        ("expand.variants=0", "expand.variants", "0"),
        ("evaluate.bootstrap=10", "evaluate.bootstrap", "10"),
        ("seed=-1", "seed", "-1"),
        ("model.path=", "model.path", "empty"),
        ("control=true", "control", "true"),
    ] {
        let message = set(&[text]).unwrap_err().to_string();
        assert!(
            message.contains(&format!("`{key}`")) && message.contains(value),
            "{text}: {message}"
        );
    }
    let message = Recipe::parse("seed = 1", &NONE).unwrap_err().to_string();
    assert!(message.contains("`model`") && message.contains("missing"), "{message}");
    let message = Recipe::parse("[model]\n", &NONE).unwrap_err().to_string();
    assert!(message.contains("`model.path`") && message.contains("missing"), "{message}");
    let message = Recipe::parse("a = ", &NONE).unwrap_err().to_string();
    assert!(message.contains("line 1"), "{message}");
    let message = set(&["select.sign=soft"]).unwrap_err().to_string();
    assert!(message.contains("clip") && message.contains("ones"), "{message}");
}

#[test]
fn lora_has_its_own_section() {
    let lora = |more: &[&str]| set(&[&["train.mode=lora"], more].concat());
    let section = lora(&[]).unwrap().train.lora;
    assert_eq!((section.rank, section.scale(), section.text_encoders), (4, 1.0, false));
    assert_eq!(section.targets, ["to_q", "to_k", "to_v", "to_out.0"]);
    let recipe = lora(&["train.lora.rank=16", "train.lora.alpha=8", "train.lora.init=kaiming"]);
    let recipe = recipe.unwrap();
    assert_eq!(recipe.train.lora.scale(), 0.5);
    assert_eq!(Recipe::parse(&recipe.to_toml(), &NONE).unwrap(), recipe);
    for (text, key) in [
        ("train.lora.alpha=0", "train.lora.alpha"),
        ("train.lora.rank=0", "train.lora.rank"),
        ("train.lora.alpha=-1", "train.lora.alpha"),
        ("train.lora.alpha=nan", "train.lora.alpha"),
        ("train.lora.rank=1025", "train.lora.rank"),
        ("train.lora.targets=[]", "train.lora.targets"),
        ("train.lora.targets=[\"\"]", "train.lora.targets[0]"),
        ("train.lora.rnk=4", "train.lora.rank"),
        ("train.lora.init=zeros", "train.lora.init"),
    ] {
        let message = lora(&[text]).unwrap_err().to_string();
        assert!(message.contains(&format!("`{key}`")), "{text}: {message}");
    }
}

#[test]
fn overrides_that_cannot_be_applied() {
    for bad in [
        "train.steps",
        "=3",
        "train..steps=3",
        "rewards=3=4=",
        "rewards.5.weight=1",
        "rewards.weight=1",
        "seed.x=1",
    ] {
        let result = set(&[bad]);
        assert!(result.is_err(), "{bad}: {result:?}");
    }
    // Later overrides win, spaces are allowed, text may hold `=`.
    let recipe = set(&["train.steps=3", " train.steps = 4 ", "expand.templates=a=b.toml"]).unwrap();
    assert_eq!((recipe.train.steps, recipe.expand.templates.as_str()), (4, "a=b.toml"));
}

#[test]
fn no_text_makes_the_parser_panic() {
    let mut stream = crate::rng::Key::new(0).stream();
    let bytes = MINIMAL.as_bytes();
    for _ in 0..2000 {
        let mut copy = bytes.to_vec();
        for _ in 0..=stream.index(4) {
            let place = stream.index(copy.len());
            copy[place] = stream.bits() as u8;
        }
        if let Ok(text) = String::from_utf8(copy) {
            let _ = Recipe::parse(&text, &NONE);
        }
    }
}
