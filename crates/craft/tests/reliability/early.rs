//! What cannot work is refused before it costs anything, and before a folder is made for it.

use std::fs;

use crate::support::Tiny;

#[test]
fn a_file_of_wordings_that_is_not_there_leaves_no_folder() {
    let tiny = Tiny::new();
    let args = ["run", "recipe.toml", "--out", "out", "--set", "expand.kind=file"];
    let set = ["--set", "expand.file=no.jsonl"];
    tiny.expect(&[&args[..], &set].concat(), 3, &["no.jsonl"]);
    assert!(!tiny.path("out").exists());
}

/// The annotators' pictures are 64 by 64; this model draws others.
#[test]
fn annotated_pairs_of_another_size_are_refused_before_anything_is_drawn() {
    let tiny = Tiny::new();
    let recipe = fs::read_to_string(tiny.path("recipe.toml")).unwrap();
    let files = "train = \"train.txt\"\neval = \"eval.txt\"";
    let world = "source = \"pocket\"\ntrain_count = 6\neval_count = 4";
    tiny.write("recipe.toml", recipe.replace(files, world));
    let args = ["compare", "recipe.toml", "--methods", "dpo", "--seeds", "1", "--out", "out"];
    tiny.expect(&args, 2, &["the annotators' pictures", "64×64", "leave methods"]);
    assert!(!tiny.path("out").exists());
    let dry = [&args[..], &["--dry-run"]].concat();
    tiny.expect(&dry, 2, &["the annotators' pictures"]);
}
