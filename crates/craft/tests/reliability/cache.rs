//! The cache of scores: what was changed in it is scored again.

use std::fs;

use crate::files::same_files;
use crate::support::{Tiny, copy};

#[test]
fn a_score_that_was_changed_is_not_believed() {
    let tiny = Tiny::new();
    let run = ["run", "recipe.toml", "--out", "out"];
    tiny.expect(&run, 0, &[]);
    copy(&tiny.path("out"), &tiny.path("whole"));
    let cache = tiny.path("out/cache/scores.jsonl");
    let text = fs::read_to_string(&cache).unwrap();
    let changed = text.replacen("\"score\":\"", "\"score\":\"9", 3);
    assert_ne!(text, changed);
    fs::write(&cache, changed).unwrap();
    fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
    tiny.expect(&run, 0, &["3 of ", "scores were changed or damaged", "scored again"]);
    for stage in ["rewards", "selection", "aligned"] {
        same_files(&tiny.path("whole").join(stage), &tiny.path("out").join(stage), stage);
    }
}
