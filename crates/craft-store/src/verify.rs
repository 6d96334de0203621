//! Every hash of a run, compared with what its files are now.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Result, StoreError};
use crate::hash::sha256_file;
use crate::manifest::{Manifest, Output, Problem, ProblemKind, STAGE_FILE};
use crate::stage::INPUTS_FILE;

/// What was found in the folder of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// Its folder, relative to the one that was looked through.
    pub folder: PathBuf,
    /// Its name; none where its manifest cannot be read.
    pub stage: Option<String>,
    /// Whether it is finished: of an unfinished stage nothing is recorded yet.
    pub finished: bool,
    /// Outputs that were compared.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Folders of stages at any depth below a folder, those of runs within it too, in the order of their
/// names. Links are not followed.
///
/// # Errors
/// When a folder cannot be read.
pub fn stages(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(dir, &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = || StoreError::io("read", dir);
    let mut is_stage = false;
    for entry in fs::read_dir(dir).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let name = entry.file_name();
        is_stage |= name == STAGE_FILE || name == INPUTS_FILE;
        let hidden = name.to_string_lossy().starts_with('.');
        if entry.file_type().map_err(failed())?.is_dir() && !hidden {
            walk(&entry.path(), found)?;
        }
    }
    if is_stage {
        found.push(dir.to_owned());
    }
    Ok(())
}

/// Number of outputs of the finished stages in these folders, and their bytes. Folders whose manifest
/// cannot be read count nothing.
pub fn size(stages: &[PathBuf]) -> (u64, u64) {
    let sizes =
        stages.iter().filter_map(|dir| Some(Manifest::read(&dir.join(STAGE_FILE)).ok()?.size()));
    sizes.fold((0, 0), |(files, bytes), (f, b)| (files + f, bytes + b))
}

/// Hashes every output of the stage in a folder of `root`. `done` is told the bytes of each.
///
/// # Errors
/// When the stage is of another version of the format, or what `done` returns.
pub fn stage<E: From<StoreError>>(
    root: &Path,
    dir: &Path,
    done: &mut dyn FnMut(u64) -> std::result::Result<(), E>,
) -> std::result::Result<Verified, E> {
    let folder = dir.strip_prefix(root).unwrap_or(dir).to_owned();
    let mut found =
        Verified { folder, stage: None, finished: true, files: 0, bytes: 0, problems: Vec::new() };
    let path = dir.join(STAGE_FILE);
    if !path.exists() {
        return Ok(Verified { finished: false, ..found });
    }
    let manifest = match Manifest::read(&path) {
        Ok(manifest) => manifest,
        Err(error @ StoreError::OtherVersion { .. }) => return Err(error.into()),
        Err(error) => {
            let kind = ProblemKind::Unreadable(error.without_path());
            found.problems.push(Problem { path, kind });
            return Ok(found);
        }
    };
    found.stage = Some(manifest.stage.clone());
    let mut stopped = None;
    let walked = manifest.each_output(dir, |name, output| {
        found.files += 1;
        found.bytes += output.bytes;
        let path = dir.join(name);
        if let Some(kind) = compare(&path, output) {
            found.problems.push(Problem { path, kind });
        }
        done(output.bytes).map_err(|error| {
            stopped = Some(error);
            StoreError::Stopped
        })
    });
    match (walked, stopped) {
        (_, Some(error)) => return Err(error),
        (Err(error), None) => {
            // The list of outputs itself is damaged: its hash has told so, too.
            let kind = ProblemKind::Unreadable(error.without_path());
            found.problems.push(Problem { path: dir.join(crate::manifest::OUTPUTS_FILE), kind });
        }
        (Ok(()), None) => {}
    }
    Ok(found)
}

/// What is wrong with an output; `None` if its content is as recorded.
pub(crate) fn compare(path: &Path, output: &Output) -> Option<ProblemKind> {
    let meta = match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some(ProblemKind::Missing);
        }
        Err(error) => return Some(ProblemKind::Unreadable(error.to_string())),
        Ok(meta) => meta,
    };
    if meta.len() != output.bytes {
        return Some(ProblemKind::Length { found: meta.len(), expected: output.bytes });
    }
    match sha256_file(path) {
        Ok(hash) if hash == output.sha256 => None,
        Ok(_) => Some(ProblemKind::Content),
        Err(error) => Some(ProblemKind::Unreadable(error.without_path())),
    }
}

/// Hashes those outputs of a finished stage that are going to be used, such as the pictures that were
/// selected: a start compares lengths and times only.
///
/// # Errors
/// When the stage is not finished, a name is none of its outputs, or one is not as it was recorded;
/// names the file and says what to do.
pub fn outputs<'a>(dir: &Path, names: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let manifest = Manifest::read(&dir.join(STAGE_FILE))?;
    let mut wanted: std::collections::BTreeSet<&str> = names.into_iter().collect();
    manifest.each_output(dir, |name, output| {
        if !wanted.remove(name) {
            return Ok(());
        }
        let path = dir.join(name);
        match compare(&path, output) {
            None => Ok(()),
            Some(kind) => {
                let problem = Problem { path: path.clone(), kind };
                Err(StoreError::damaged(&manifest.stage, &problem))
            }
        }
    })?;
    match wanted.first() {
        None => Ok(()),
        Some(name) => Err(StoreError::bad(
            &dir.join(name),
            format!(
                "stage `{}` recorded no such output: expected one of those in {STAGE_FILE}",
                manifest.stage
            ),
        )),
    }
}

/// What to do about a damaged output.
pub fn cure(stage: &str) -> String {
    format!(
        "put it back from a copy; or remove it and run the same command as before, which does the stage `{stage}` again"
    )
}

impl StoreError {
    /// An output that is not as it was recorded.
    pub(crate) fn damaged(stage: &str, problem: &Problem) -> Self {
        let text = problem.to_string();
        let path = problem.path.display().to_string();
        let what = text.strip_prefix(&path).unwrap_or(&text).trim_start_matches(':').trim_start();
        Self::bad(&problem.path, format!("it {what}; {}", cure(stage)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::atomic;
    use crate::run::RunFolder;
    use crate::stage::{Stage, StageStatus};
    use std::collections::BTreeMap;

    fn finished(run: &RunFolder, stage: &Stage) {
        let StageStatus::Unfinished(writer) = stage.open(run, "c", &BTreeMap::new()).unwrap()
        else {
            panic!("finished");
        };
        atomic::create_dir(&writer.join("images")).unwrap();
        for i in 0..3 {
            writer.write(&format!("images/{i}.png"), format!("picture {i}").as_bytes()).unwrap();
        }
        writer.finish(BTreeMap::new(), Vec::new(), 0.0).unwrap();
    }

    /// A byte that is changed without a trace: same length, same time of last change.
    fn rot(path: &Path) {
        let time = fs::metadata(path).unwrap().modified().unwrap();
        let mut bytes = fs::read(path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
        fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn every_kind_of_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("run");
        let run = RunFolder::create_or_open(&root, "a").unwrap();
        finished(&run, &Stage::GENERATE);
        drop(Stage::SCORE.open(&run, "c", &BTreeMap::new()).unwrap());
        let inner = RunFolder::create_or_open(&root.join("rounds/1"), "b").unwrap();
        finished(&inner, &Stage::GENERATE);
        let folders = stages(&root).unwrap();
        assert_eq!(folders.len(), 3);
        assert_eq!(size(&folders), (6, 54));
        let look = || -> Vec<Verified> {
            folders
                .iter()
                .map(|d| stage::<StoreError>(&root, d, &mut |_| Ok(())).unwrap())
                .collect()
        };
        let found = look();
        assert!(found.iter().all(|v| v.problems.is_empty()));
        assert_eq!(found[0].files, 3);
        assert_eq!((found[1].finished, found[1].folder.to_str()), (false, Some("rewards")));
        rot(&root.join("candidates/images/0.png"));
        fs::remove_file(root.join("candidates/images/1.png")).unwrap();
        fs::write(root.join("candidates/images/2.png"), "").unwrap();
        fs::write(root.join("rounds/1/candidates/stage.json"), "{").unwrap();
        let found = look();
        let kinds: Vec<_> = found[0].problems.iter().map(|p| p.kind.clone()).collect();
        let length = ProblemKind::Length { found: 0, expected: 9 };
        assert_eq!(kinds, [ProblemKind::Content, ProblemKind::Missing, length]);
        assert!(matches!(&found[2].problems[0].kind, ProblemKind::Unreadable(_)));
        // What is used is hashed before.
        let dir = root.join("candidates");
        let message = outputs(&dir, ["images/0.png"]).unwrap_err().to_string();
        for word in ["images/0.png: it was changed", "put it back", "stage `generate` again"] {
            assert!(message.contains(word), "{message}");
        }
        assert!(outputs(&dir, ["images/9.png"]).is_err());
    }
}
