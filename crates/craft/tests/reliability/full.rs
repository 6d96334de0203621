//! A disk that fills up while pictures are drawn.
#![cfg(target_os = "linux")]
#![allow(clippy::print_stderr)]

use std::process::Command;

use crate::process::same_results;
use crate::support::Tiny;

/// Runs a shell script in the folder, with `craft` as `$CRAFT`; its exit code and standard error.
fn shell(tiny: &Tiny, script: &str) -> (Option<i32>, String) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(tiny.path(""));
    command.env("CRAFT", env!("CARGO_BIN_EXE_craft")).env("CRAFT_POCKET_DIR", tiny.path("model"));
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_disk_that_fills_up_keeps_what_was_drawn() {
    let tiny = Tiny::new();
    let (code, error) = shell(&tiny, "unshare -rm sh -c 'mount -t tmpfs none model'");
    if code != Some(0) {
        return eprintln!("skipped: no disk of our own ({})", error.trim());
    }
    let run = "run recipe.toml --set generate.steps=60 --set generate.batch=4";
    let script = format!(
        r#"
        mkdir disk && mount -t tmpfs -o size=120m none disk || exit 90
        "$CRAFT" {run} --out disk/out &
        until [ "$(ls disk/out/candidates/images 2>/dev/null | grep -c 'png$')" -ge 5 ]; do
            kill -0 $! || exit 91
        done
        dd if=/dev/zero of=disk/filler bs=64k 2>/dev/null
        wait $!; echo "code $?" >&2
        ls -i disk/out/candidates/images/*.png > before || exit 92
        find disk -name '*.tmp' >&2
        rm disk/filler
        "$CRAFT" {run} --out disk/out; echo "code $?" >&2
        ls -i disk/out/candidates/images/*.png > after
        grep -vxFf after before && exit 93
        cp -r disk/out copy
    "#
    );
    tiny.write("script.sh", script);
    let (code, error) = shell(&tiny, "unshare -rm sh script.sh");
    assert_eq!(code, Some(0), "{error}");
    let parts: Vec<&str> = error.split("code ").collect();
    assert!(
        parts[0].contains("cannot write") && parts[0].contains("run the same command again"),
        "{error}"
    );
    assert!(parts[1].starts_with("1\n") && !parts[1].contains(".tmp\n"), "{error}");
    assert!(parts[2].starts_with("0\n"), "{error}");
    let args = ["--out", "undisturbed"];
    let run: Vec<&str> = run.split(' ').chain(args).collect();
    tiny.expect(&run, 0, &[]);
    same_results(&tiny.path("copy"), &tiny.path("undisturbed"));
}
