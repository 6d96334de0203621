//! Scores and wordings that were kept: what was changed or damaged is not believed, and the rest stays.

use std::fs;

use crate::support::Tiny;

const RUN: [&str; 4] = ["run", "recipe.toml", "--out", "out"];

/// What is done to a line.
type Edit<'a> = &'a dyn Fn(&str) -> String;

#[test]
fn a_changed_score_is_not_believed() {
    let tiny = Tiny::new();
    tiny.expect(&RUN, 0, &[]);
    let rewards = tiny.path("out/rewards/rewards.jsonl");
    let path = tiny.path("out/cache/scores.jsonl");
    let before = fs::read(&rewards).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let score = "\"score\":\"";
    let edit = |line: &str| line.replace(score, &format!("{score}1"));
    let no_sum = |line: &str| format!("{}}}", line.split(",\"sum\"").next().unwrap());
    let edits: [(&str, Edit<'_>); 5] = [
        ("a changed score", &edit),
        ("another prompt", &|line| line.replace("\"prompt\":\"a ", "\"prompt\":\"the ")),
        ("no checksum", &no_sum),
        ("half a line", &|line| line[..line.len() / 2].to_owned()),
        ("no text", &|line| line.replace("reward", "\u{0}")),
    ];
    for (what, edit) in edits {
        // Three lines of the 32 of the reward that is trained on.
        let lines: Vec<String> = text
            .lines()
            .enumerate()
            .map(|(i, line)| if i % 11 == 3 && i < 32 { edit(line) } else { line.to_owned() })
            .collect();
        let changed = lines.join("\n") + "\n";
        assert!(changed != text, "{what}");
        fs::write(&path, changed).unwrap();
        fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
        tiny.expect(&RUN, 0, &["scores.jsonl, line 4 and 2 more", "is asked again"]);
        assert!(fs::read(&rewards).unwrap() == before, "{what}");
        // It was mended: nothing is said a second time, and every score is there once.
        fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
        let output = tiny.craft(&RUN).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && !error.contains("asked again"), "{error}");
        let mut mended: Vec<String> =
            fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
        let mut all: Vec<&str> = text.lines().collect();
        mended.sort();
        all.sort_unstable();
        assert!(mended == all, "{what}");
        fs::write(&path, &text).unwrap();
    }
    // A line that a kill tore is nothing to tell.
    fs::write(&path, &text[..text.len() - 9]).unwrap();
    fs::remove_dir_all(tiny.path("out/rewards")).unwrap();
    let output = tiny.craft(&RUN).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !error.contains("asked again"), "{error}");
    assert!(fs::read(&rewards).unwrap() == before);
}
