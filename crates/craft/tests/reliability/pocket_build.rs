//! `craft pocket build`, killed: the embedded models come out the same.

use std::fs;

use crate::files::same_files;
use crate::support::Tiny;

fn build(out: &str) -> [&str; 8] {
    ["pocket", "build", "--out", out, "--scale", "0.001", "tokenizer", "vae"]
}

#[test]
fn a_build_killed_while_it_measures_its_latents_is_finished_rightly() {
    let tiny = Tiny::new();
    let log = tiny.path("log");
    let logging = format!("log={}", log.display());
    let done = tiny.craft(&build("whole")).env("CRAFT_TEST_DISK", logging).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let changes: Vec<String> =
        fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect();
    let config: Vec<usize> = changes
        .iter()
        .enumerate()
        .filter(|(_, line)| *line == "Rename whole/vae/config.json")
        .map(|(i, _)| i + 1)
        .collect();
    // Written once, when all is known.
    let [last] = config[..] else { panic!("{config:?} of {changes:#?}") };
    let text = fs::read_to_string(tiny.path("whole/vae/config.json")).unwrap();
    let factor = text.split_once("\"scaling_factor\": ").unwrap().1.split(',').next().unwrap();
    assert_ne!(factor, "1.0");
    // Just before the config is begun (where latents are measured), within it, and before.
    for at in [last - 3, last, last - 9, 8] {
        let out = format!("killed-{at}");
        let killed =
            tiny.craft(&build(&out)).env("CRAFT_TEST_DISK", format!("kill@{at}")).output().unwrap();
        assert_eq!(killed.status.code(), None);
        tiny.expect(&build(&out), 0, &[]);
        same_files(&tiny.path("whole"), &tiny.path(&out), &format!("killed at {at}"));
    }
}
