//! Runs that may be read and not written: archives, and those of other people.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr)]

use std::fs;

use crate::files::files;
use crate::support::Tiny;

/// Runs a shell script in a file system view of its own, with `craft` as `$CRAFT`; its exit code and
/// standard error.
fn apart(tiny: &Tiny, script: &str) -> (Option<i32>, String) {
    tiny.write("script.sh", script);
    let mut command = std::process::Command::new("unshare");
    command.args(["-rm", "sh", "script.sh"]).current_dir(tiny.path(""));
    command.env("CRAFT", env!("CARGO_BIN_EXE_craft")).env("CRAFT_POCKET_DIR", tiny.path("model"));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_run_that_cannot_be_written_to_is_exported_and_reported() {
    let tiny = Tiny::new();
    let (code, error) = apart(&tiny, "mount --bind model model && mount -o remount,bind,ro model");
    if code != Some(0) {
        return eprintln!("skipped: no view of our own ({})", error.trim());
    }
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let before = files(&tiny.path("out"));
    let script = r#"
        mount --bind out out && mount -o remount,bind,ro out || exit 90
        "$CRAFT" export out --format lora-kohya --out tuned.safetensors || exit 91
        "$CRAFT" export out --format diffusers --out tuned || exit 92
        "$CRAFT" report out --out page || exit 93
        "$CRAFT" report out; echo "code $?" >&2
        "$CRAFT" train out; echo "code $?" >&2
    "#;
    let (code, error) = apart(&tiny, script);
    assert_eq!(code, Some(0), "{error}");
    assert!(error.contains("give --out DIR to write it elsewhere"), "{error}");
    assert_eq!(error.matches("code 1\n").count(), 2, "{error}");
    assert!(tiny.path("tuned.safetensors").is_file() && tiny.path("tuned/unet").is_dir());
    let page = fs::read_to_string(tiny.path("page/index.html")).unwrap();
    assert!(page.contains("</html>"));
    assert_eq!(files(&tiny.path("out")), before);
}

#[test]
fn a_page_elsewhere_changes_nothing_in_the_run_and_nothing_that_is_there() {
    let tiny = Tiny::new();
    tiny.expect(&["run", "recipe.toml", "--out", "out"], 0, &[]);
    let before = files(&tiny.path("out"));
    let text = tiny.expect(&["report", "out", "--out", "page"], 0, &[]);
    assert!(text.contains("report: page/index.html"), "{text}");
    let read = |path: &str| fs::read(tiny.path(path)).unwrap();
    assert!(read("page/index.html") == read("out/report/index.html"));
    assert_eq!(files(&tiny.path("out")), before);
    fs::create_dir_all(tiny.path("mine/images")).unwrap();
    tiny.write("mine/images/a.jpg", "keep");
    tiny.expect(&["report", "out", "--out", "mine"], 2, &["mine", "is not empty", "expected"]);
    assert_eq!(read("mine/images/a.jpg"), b"keep");
    // A run that another process is at work on can be looked at, too.
    tiny.expect(&["report", "nothing", "--out", "page-2"], 3, &["not a run folder"]);
}
