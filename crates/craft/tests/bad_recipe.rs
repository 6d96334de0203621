//! Wrong usage, wrong recipes, wrong prompts: the message and the exit code.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod support;

use std::fs;

use support::Tiny;

#[track_caller]
fn recipe_fails(change: (&str, &str), code: i32, words: &[&str]) {
    let tiny = Tiny::new();
    let text = support::RECIPE.replace(change.0, change.1);
    assert_ne!(text, support::RECIPE, "{} is not in the recipe", change.0);
    tiny.write("recipe.toml", text);
    for args in [&["run", "recipe.toml", "--out", "out"][..], &["run", "recipe.toml", "--dry-run"]]
    {
        tiny.expect(args, code, words);
    }
    assert!(!tiny.path("out").exists(), "a refused recipe left a run folder");
}

#[test]
fn usage() {
    let tiny = Tiny::new();
    tiny.expect(&["frobnicate"], 2, &["unrecognized subcommand 'frobnicate'"]);
    assert_eq!(tiny.craft(&[]).output().unwrap().status.code(), Some(2));
    tiny.expect(&["doctor", "--device", "cuda"], 2, &["--device cuda", "--features cuda"]);
    tiny.expect(&["doctor", "--device", "abacus"], 2, &["no such device", "`cpu`"]);
    tiny.expect(&["doctor", "--threads", "0"], 2, &["--threads"]);
    tiny.expect(&["score", "a", "b"], 2, &["one run folder"]);
    tiny.expect(&["score", "a.png", "--prompt", "x"], 2, &["--reward"]);
    tiny.expect(&["pocket", "build", "hat"], 2, &["`hat`", "tokenizer, vae, base, rewards"]);
    tiny.expect(&["pocket", "build", "--scale", "0"], 2, &["--scale is 0", "above 0"]);
    tiny.expect(&["expand", "model"], 3, &["not a run folder", "craft run"]);
    tiny.expect(&["run", "no.toml"], 3, &["no.toml", "check the path"]);
}

#[test]
fn recipe_keys_types_and_ranges() {
    recipe_fails(
        ("learning_rate", "learning_rat"),
        2,
        &["train.learning_rat", "did you mean `train.learning_rate`"],
    );
    recipe_fails(("steps = 4", "steps = \"four\""), 2, &["`train.steps`", "string"]);
    recipe_fails(("variants = 3", "variants = 0"), 2, &["`expand.variants` is 0", "from 1"]);
    recipe_fails(("steps = 4", "steps = 0"), 2, &["`train.steps` is 0"]);
    recipe_fails(("[train]", "[train"), 2, &["not valid TOML"]);
    recipe_fails(("weights = \"model/rewards/pocket-hps\"", ""), 2, &["tiny", "weights"]);
    recipe_fails(
        ("steps = 2", "steps = 2\nheight = 24\nwidth = 25"),
        2,
        &["`generate.width` is 25"],
    );
    recipe_fails(
        ("steps = 2", "steps = 2\nkarras = true"),
        2,
        &["`generate.karras` is true", "\"euler\" or \"dpm++2m\""],
    );
    recipe_fails(("path = \"model\"", "path = \"nothing\""), 3, &["nothing"]);
    recipe_fails(("model/rewards/pocket-ir", "model/rewards/none"), 3, &["other", "none"]);
}

#[test]
fn overrides() {
    let tiny = Tiny::new();
    let run = |set| ["run", "recipe.toml", "--dry-run", "--set", set];
    tiny.expect(&run("train.stepz=3"), 2, &["train.stepz"]);
    tiny.expect(&run("train.steps"), 2, &["--set train.steps"]);
    let plan = tiny.expect(&run("train.steps=3"), 0, &[]);
    assert!(plan.contains("steps = 3"), "{plan}");
}

#[test]
fn prompt_files() {
    recipe_fails(("train.txt", "gone.txt"), 3, &["gone.txt", "prompts.train"]);
    let tiny = Tiny::new();
    let run = ["run", "recipe.toml", "--out", "out"];
    tiny.write("train.txt", "\n  \n");
    tiny.expect(&run, 3, &["train.txt", "no prompt"]);
    tiny.write("train.txt", b"a red circle\na caf\xe9\n");
    tiny.expect(&run, 3, &["train.txt", "line 2", "UTF-8"]);
    tiny.write("train.jsonl", "{\"prompt\": \"a red circle\"}\na blue star\n");
    let lines = [&run[..], &["--set", "prompts.train=train.jsonl"]].concat();
    tiny.expect(&lines, 3, &["train.jsonl", "line 2", "not valid JSON"]);
    // One text in both splits would be trained on and evaluated.
    tiny.write("train.txt", "a red circle\nA red star\n");
    tiny.expect(&run, 3, &["same text"]);
    assert!(!tiny.path("out").exists());
    tiny.write("train.txt", "a red circle\n\na blue square\na red circle\n");
    tiny.expect(&["run", "recipe.toml", "--dry-run"], 0, &[]);
    tiny.expect(
        &["run", "recipe.toml", "--out", "out", "--set", "train.steps=1"],
        0,
        &["1 blank", "1 repeated"],
    );
    tiny.write("train.txt", format!("{}\na blue square\n", "a red circle and ".repeat(20)));
    tiny.expect(&["run", "recipe.toml", "--dry-run"], 0, &["1 prompts are longer", "cut off"]);
}

#[test]
fn run_folders() {
    let tiny = Tiny::new();
    fs::create_dir(tiny.path("photos")).unwrap();
    tiny.write("photos/cat.jpg", "");
    tiny.expect(
        &["run", "recipe.toml", "--out", "photos"],
        1,
        &["photos", "cat.jpg", "new folder"],
    );
    assert_eq!(fs::read_dir(tiny.path("photos")).unwrap().count(), 1);
    tiny.expect(&["run", "recipe.toml", "--out", "train.txt"], 3, &["train.txt", "it is a file"]);
    fs::create_dir(tiny.path("old")).unwrap();
    tiny.write("old/recipe.toml", "seed = 7\n");
    tiny.expect(&["run", "recipe.toml", "--out", "old"], 1, &["holds another run", "line 1"]);
    assert_eq!(fs::read_to_string(tiny.path("old/recipe.toml")).unwrap(), "seed = 7\n");
}

#[test]
#[cfg(unix)]
fn folders_that_cannot_be_written() {
    use std::os::unix::fs::PermissionsExt;
    let tiny = Tiny::new();
    // Nobody, the superuser neither, makes a folder below a file.
    tiny.expect(
        &["run", "recipe.toml", "--out", "train.txt/run"],
        1,
        &["train.txt/run", "is a file"],
    );
    let below = ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--output"];
    let below = [&below[..], &["train.txt/x.png"]].concat();
    tiny.expect(&below, 1, &["train.txt", "is a file"]);
    assert!(fs::read_to_string(tiny.path("train.txt")).unwrap().starts_with("a red circle"));
    let locked = tiny.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o555)).unwrap();
    if fs::write(locked.join("x"), "").is_ok() {
        return; // The superuser may write anywhere.
    }
    tiny.expect(&["run", "recipe.toml", "--out", "locked/run"], 1, &["locked", "permissions"]);
    let sample =
        ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--output", "locked/x.png"];
    tiny.expect(&sample, 1, &["locked", "permissions"]);
}
