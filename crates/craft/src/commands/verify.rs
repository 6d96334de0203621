//! `craft verify`

use std::path::Path;

use anyhow::Context as _;
use craft_core::Progress;
use craft_store::manifest::{Problem, ProblemKind};
use craft_store::verify::{self, Verified};
use serde_json::{Value, json};

use super::App;
use crate::cli::StageArgs;
use crate::progress::Reporter;
use crate::{console, exit, interrupt};

/// Hashes every output of every stage of a run, or of the runs of a comparison.
pub(super) fn verify(app: &App, args: &StageArgs) -> anyhow::Result<()> {
    interrupt::exit_at_once()?;
    let root = &args.run_dir;
    let stages = verify::stages(root)?;
    if stages.is_empty() {
        return Err(exit::input(format!(
            "{}: it holds no stage of a run: give the folder that `craft run` or `craft compare` wrote",
            root.display()
        )));
    }
    let progress = Reporter::new(app.level);
    progress.start("verify", verify::size(&stages).1 >> 20, "MiB");
    let mut all = Vec::new();
    let (mut bytes, mut told) = (0, 0);
    for dir in &stages {
        let mut done = |n: u64| {
            bytes += n;
            progress.advance((bytes >> 20) - told);
            told = bytes >> 20;
            Ok::<_, anyhow::Error>(())
        };
        all.push(verify::stage(root, dir, &mut done).context("nothing can be said of this run")?);
    }
    let count = |of: &dyn Fn(&Verified) -> u64| all.iter().map(of).sum::<u64>();
    let problems = count(&|found| found.problems.len() as u64);
    let unfinished = count(&|found| u64::from(!found.finished));
    let files = count(&|found| found.files);
    let finished = all.len() as u64 - unfinished;
    progress.finish(&format!("verify: {finished} stages, {files} files"));
    for found in &all {
        found.problems.iter().try_for_each(|problem| tell(app, found, problem))?;
    }
    let mut line = format!("{}: {finished} finished stages, {files} files", root.display());
    if app.json {
        let summary = json!({
            "run_dir": root.display().to_string(), "stages": finished, "unfinished": unfinished,
            "files": files, "bytes": bytes, "problems": problems,
        });
        console::result(&summary.to_string())?;
    } else {
        if unfinished > 0 {
            line += &format!(
                " ({unfinished} stages are not finished, and nothing is recorded of them)"
            );
        }
        line += if problems == 0 { ": all are as they were recorded" } else { "" };
        console::result(&line)?;
    }
    match problems {
        0 => Ok(()),
        n => Err(exit::input(format!(
            "{}: {n} of {files} files are not as they were recorded (named above)",
            root.display()
        ))),
    }
}

/// One line for a file that is not as it was recorded.
fn tell(app: &App, found: &Verified, problem: &Problem) -> anyhow::Result<()> {
    let cure = match &found.stage {
        Some(stage) => verify::cure(stage),
        None => format!(
            "put it back from a copy; or remove the folder {}, so that the same command as before does its stage again",
            problem.path.parent().unwrap_or(Path::new("")).display()
        ),
    };
    if !app.json {
        return console::result(&format!("{problem}; {cure}"));
    }
    let mut line = json!({
        "file": problem.path.display().to_string(), "stage": found.stage, "problem": kind(problem),
    });
    match &problem.kind {
        ProblemKind::Length { found, expected } => {
            line["bytes"] = Value::from(*found);
            line["expected_bytes"] = Value::from(*expected);
        }
        ProblemKind::Unreadable(why) => line["reason"] = Value::from(why.as_str()),
        ProblemKind::Missing | ProblemKind::Content => {}
    }
    line["cure"] = Value::from(cure);
    console::result(&line.to_string())
}

fn kind(problem: &Problem) -> &'static str {
    match problem.kind {
        ProblemKind::Missing => "missing",
        ProblemKind::Length { .. } => "length",
        ProblemKind::Content => "content",
        ProblemKind::Unreadable(_) => "unreadable",
    }
}
