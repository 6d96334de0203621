//! Programs that score, well-behaved and not.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods)]

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use craft_external::{CommandOptions, CommandReward, Item, Scored};
use tempfile::TempDir;

/// A 2×2 picture.
const PIXELS: [u8; 12] = [9; 12];

fn item(prompt: &str) -> Item<'_> {
    Item { pixels: &PIXELS, width: 2, height: 2, path: None, prompt }
}

fn reward(script: &str, dir: &Path, seconds: f64) -> CommandReward {
    let words = ["sh", "-c", script].map(str::to_owned);
    let timeout = Duration::from_secs_f64(seconds);
    CommandReward::new(CommandOptions::new(&words, dir, timeout, timeout).unwrap())
}

/// Scores of prompts by a shell script.
fn scores(script: &str, prompts: &[&str]) -> Vec<Scored> {
    let dir = tempfile::tempdir().unwrap();
    let items: Vec<Item<'_>> = prompts.iter().map(|p| item(p)).collect();
    reward(script, dir.path(), 20.0).score(&items)
}

#[track_caller]
fn missing(scored: &Scored, words: &[&str]) {
    let reason = scored.as_ref().unwrap_err();
    for word in words {
        assert!(reason.contains(word), "`{word}` is not in: {reason}");
    }
}

/// Answers each line with the score given.
fn answering(answer: &str) -> String {
    format!("while read -r line; do echo '{answer}'; done")
}

#[test]
fn a_program_is_started_once_and_sees_picture_and_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let script = r#"echo start >> log
        while read -r line; do
          printf '%s\n' "$line" >> log
          file=$(printf '%s' "$line" | sed 's/.*"image":"\([^"]*\)".*/\1/')
          head -c 4 "$file" | grep -q PNG && echo '{"score": 1.5}' || echo '{"error": "no picture"}'
        done"#;
    let mut reward = reward(script, dir.path(), 20.0);
    assert!(!dir.path().join("log").exists(), "started before it was needed");
    let scores = reward.score(&[item("a \"red\" cat\nand ä"), item("b")]);
    assert_eq!(scores, [Ok(1.5), Ok(1.5)]);
    // A picture that lies in a file is not written again.
    let mine = dir.path().join("mine.png");
    fs::write(&mine, b"\x89PNG").unwrap();
    assert_eq!(reward.score(&[Item { path: Some(&mine), ..item("c") }]), [Ok(1.5)]);
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 4, "{log}");
    assert!(lines[1].contains(r#""prompt":"a \"red\" cat\nand ä""#), "{log}");
    assert!(lines[3].contains(mine.to_str().unwrap()), "{log}");
    drop(reward);
}

#[test]
fn a_crash_costs_one_score_and_three_in_a_row_are_the_end() {
    let script = r#"while read -r line; do
        case "$line" in *bad*) echo 'cannot find face' >&2; exit 3;; esac
        echo '{"score": 1}'
      done"#;
    let found = scores(script, &["a", "bad", "b", "bad", "bad", "c"]);
    for (i, scored) in found.iter().enumerate() {
        match i {
            0 | 2 | 5 => assert_eq!(*scored, Ok(1.0)),
            _ => missing(scored, &["exit status: 3", "standard error: cannot find face"]),
        }
    }
    let found = scores(script, &["bad", "bad", "bad", "a", "b"]);
    missing(&found[2], &["exit status: 3"]);
    missing(&found[3], &["not asked after 3 failures in a row", "cannot find face"]);
    missing(&found[4], &["not asked"]);
    missing(&scores("kill -9 $$", &["a"])[0], &["signal: 9"]);
}

fn lives(pid: &str) -> bool {
    let status = Command::new("sh").args(["-c", &format!("kill -0 {pid} 2>/dev/null")]).status();
    // A zombie that nobody waits for is dead.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.unwrap().success() && !stat.contains(") Z ")
}

fn ends(pid: &str) -> bool {
    let start = Instant::now();
    while lives(pid) && start.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(20));
    }
    !lives(pid)
}

#[test]
fn a_hang_is_ended_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let script = "sleep 1000 & echo $! > child; echo $$ > self; wait";
    let start = Instant::now();
    let found = reward(script, dir.path(), 0.5).score(&[item("a")]);
    missing(&found[0], &["no answer within 0.5 seconds"]);
    assert!(start.elapsed() < Duration::from_secs(10));
    for file in ["self", "child"] {
        let pid = fs::read_to_string(dir.path().join(file)).unwrap();
        assert!(ends(pid.trim()), "{file} lives on");
    }
}

#[test]
fn a_program_that_does_not_read_is_a_hang_too() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(1 << 20);
    let found = reward("sleep 1000", dir.path(), 0.5).score(&[item(&long)]);
    missing(&found[0], &["no answer within"]);
}

#[test]
fn rubbish_is_refused_and_what_follows_is_right() {
    for (answer, words) in [
        (
            "Loading model...",
            &["`Loading model...`", "expected a JSON object", "standard error"][..],
        ),
        ("7", &["expected {\"score\": number}"]),
        ("{\"score\": \"high\"}", &["the score is \"high\"", "expected a number"]),
        ("{\"score\": 1, \"id\": 99}", &["request 99, expected 1"]),
        ("{\"scores\": [1]}", &["expected {\"score\": number}"]),
    ] {
        let script = format!(
            r#"while read -r line; do
                 case "$line" in *bad*) echo '{answer}';; *) echo '{{"score": 2}}';; esac
               done"#
        );
        let found = scores(&script, &["bad", "a"]);
        missing(&found[0], words);
        assert_eq!(found[1], Ok(2.0), "{answer}");
    }
    missing(&scores(r"read -r l; printf '\377\n'; read -r l", &["a"])[0], &["not UTF-8"]);
    let long = "read -r l; head -c 3000000 /dev/zero | tr '\\0' a; read -r l";
    missing(&scores(long, &["a"])[0], &["a line of more than"]);
    missing(&scores("yes", &["a"])[0], &["`y`"]);
}

/// A line too many would give every later picture the score of its neighbour.
#[test]
fn a_line_too_many_is_noticed() {
    let script = r#"while read -r line; do echo '{"score": 1}'; echo '{"score": 2}'; done"#;
    let dir = tempfile::tempdir().unwrap();
    let mut reward = reward(script, dir.path(), 20.0);
    assert_eq!(reward.score(&[item("a")]), [Ok(1.0)]);
    std::thread::sleep(Duration::from_millis(300));
    missing(&reward.score(&[item("b")])[0], &["a line too many", "{\"score\": 2}"]);
}

#[test]
fn too_few_lines_are_missing_scores() {
    let script = "read -r line; echo '{\"score\": 1}'";
    let found = scores(script, &["a", "b", "c"]);
    assert_eq!(found[0], Ok(1.0));
    missing(&found[1], &["the process ended (exit status: 0) before it answered"]);
    assert_eq!(found[2], Ok(1.0));
}

#[test]
fn numbers_that_are_no_scores_are_missing_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    for answer in [
        r#"{"score": NaN}"#,
        r#"{"score": -Infinity}"#,
        r#"{"score": 1e999}"#,
        r#"{"score": 1e300}"#,
        r#"{"score": null}"#,
        r#"{"error": "no face"}"#,
    ] {
        fs::write(dir.path().join("log"), "").unwrap();
        let script = format!("echo start >> log; {}", answering(answer));
        let found = reward(&script, dir.path(), 20.0).score(&[item("a"); 5]);
        assert_eq!(found.len(), 5);
        let word = if answer.contains("face") { "it says: no face" } else { "the score is" };
        found.iter().for_each(|scored| missing(scored, &[word]));
        assert_eq!(fs::read_to_string(dir.path().join("log")).unwrap(), "start\n", "{answer}");
    }
}

#[test]
fn much_on_standard_error_neither_blocks_nor_fills_the_reason() {
    let script = "head -c 5000000 /dev/zero | tr '\\0' e >&2; echo 'the last words' >&2; exit 1";
    let reason = scores(script, &["a"])[0].clone().unwrap_err();
    assert!(reason.contains("the last words") && reason.len() < 1000, "{reason}");
}

#[test]
fn the_end_of_its_input_ends_a_program() {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("echo $$ > self; {}; echo done > end", answering("{\"score\": 1}"));
    let mut reward = reward(&script, dir.path(), 20.0);
    assert_eq!(reward.score(&[item("a")]), [Ok(1.0)]);
    let pid = fs::read_to_string(dir.path().join("self")).unwrap();
    assert!(lives(pid.trim()));
    drop(reward);
    assert!(dir.path().join("end").exists(), "it had no time to end by itself");
    assert!(ends(pid.trim()));
}

#[test]
fn programs_are_found_or_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let new = |word: &str| {
        let time = Duration::from_secs(20);
        CommandOptions::new(&[word.to_owned()], dir.path(), time, time)
    };
    let refused = |word: &str| new(word).unwrap_err().to_string();
    assert!(refused("no-such-program").contains("`no-such-program` is not on the search path"));
    assert!(refused("./score").contains("not a file in"));
    assert!(refused("").contains("not on the search path"));
    let file = dir.path().join("score");
    fs::write(&file, "#!/bin/sh\nread -r l; echo '{\"score\": 4}'; read -r l\n").unwrap();
    assert!(refused("./score").contains("not an executable file"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(CommandReward::new(new("./score").unwrap()).score(&[item("a")]), [Ok(4.0)]);
    let absolute = file.to_str().unwrap();
    assert_eq!(CommandReward::new(new(absolute).unwrap()).score(&[item("a")]), [Ok(4.0)]);
}

/// The example of the documentation.
#[test]
fn the_python_example_scores() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/examples");
    let words = ["python3", "command_reward.py"].map(str::to_owned);
    let time = Duration::from_secs(60);
    let options = match CommandOptions::new(&words, &examples, time, time) {
        Ok(options) if runs_python() => options,
        _ => return eprintln!("skipped: there is no python3"),
    };
    let dir: TempDir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.png");
    fs::write(&file, [0; 1500]).unwrap();
    let gone = dir.path().join("gone.png");
    let mut reward = CommandReward::new(options);
    let items = [&file, &gone].map(|path| Item { path: Some(path), ..item("a") });
    let found = reward.score(&items);
    assert_eq!(found[0], Ok(-1.5));
    missing(&found[1], &["it says: ", "gone.png"]);
}

fn runs_python() -> bool {
    Command::new("python3").arg("--version").output().is_ok_and(|o| o.status.success())
}
