use super::*;
use crate::jsonl::{self, Appender};
use crate::manifest::{Problem, ProblemKind};

fn run() -> (tempfile::TempDir, RunFolder) {
    let dir = tempfile::tempdir().unwrap();
    let run = RunFolder::create_or_open(&dir.path().join("run"), "seed = 1\n").unwrap();
    (dir, run)
}

fn inputs(hash: &str) -> BTreeMap<String, String> {
    BTreeMap::from([("expanded".to_owned(), hash.to_owned())])
}

fn open(run: &RunFolder, config: &str, input: &str) -> StageStatus {
    Stage::GENERATE.open(run, config, &inputs(input)).unwrap()
}

fn writer(status: StageStatus) -> StageWriter {
    match status {
        StageStatus::Unfinished(writer) => writer,
        StageStatus::Finished(manifest) => panic!("finished: {manifest:?}"),
    }
}

const ROWS: usize = 3;

/// A small stage that can be killed after any number of its writes: rows with a file each.
/// Returns whether it got to its end.
fn work(writer: StageWriter, mut writes: usize) -> bool {
    let mut step = || {
        let left = writes > 0;
        writes = writes.saturating_sub(1);
        left
    };
    let path = writer.join("rows.jsonl");
    let done = jsonl::read_resumable::<usize>(&path).unwrap().rows.len();
    atomic::create_dir(&writer.join("images")).unwrap();
    let mut appender = Appender::open(&path).unwrap();
    for i in done..ROWS {
        if !step() {
            // Killed within a write: half a picture under a temporary name, half a line.
            fs::write(writer.join("images/.x.png.1-1.tmp"), "half").unwrap();
            return false;
        }
        atomic::write(&writer.join(format!("images/{i}.png")), format!("picture {i}").as_bytes())
            .unwrap();
        if !step() {
            return false;
        }
        appender.append(&i).unwrap();
    }
    if !step() {
        return false;
    }
    writer.finish(BTreeMap::from([("rows".into(), ROWS as u64)]), Vec::new(), 1.5).unwrap();
    true
}

#[test]
fn a_finished_stage_is_verified_and_skipped() {
    let (_dir, run) = run();
    let stage = writer(open(&run, "c", "i"));
    assert!(!stage.resumed());
    assert!(work(stage, 100));
    let StageStatus::Finished(manifest) = open(&run, "c", "i") else {
        panic!("not finished");
    };
    assert_eq!(manifest.outputs.len(), ROWS + 1);
    assert_eq!(manifest.counts["rows"], ROWS as u64);
    assert_eq!((manifest.stage.as_str(), manifest.seconds), ("generate", 1.5));
    assert_eq!(Manifest::of(run.path(), &Stage::GENERATE).unwrap(), Some(manifest));
    assert_eq!(Manifest::of(run.path(), &Stage::SCORE).unwrap(), None);
}

#[test]
fn a_stage_killed_after_any_write_resumes_to_the_same_result() {
    let digest_of = |kills: &[usize]| {
        let (_dir, run) = run();
        for (attempt, writes) in kills.iter().enumerate() {
            let stage = writer(open(&run, "c", "i"));
            assert_eq!(stage.resumed(), attempt > 0);
            if work(stage, *writes) {
                break;
            }
        }
        match open(&run, "c", "i") {
            StageStatus::Finished(manifest) => manifest.digest(),
            StageStatus::Unfinished(_) => panic!("unfinished after {kills:?}"),
        }
    };
    let whole = digest_of(&[100]);
    for first in 0..=2 * ROWS {
        assert_eq!(digest_of(&[first, 100]), whole, "killed after {first} writes");
        for second in 0..2 {
            assert_eq!(digest_of(&[first, second, 100]), whole, "killed after {first}, {second}");
        }
    }
}

#[test]
fn changed_inputs_or_recipe_begin_anew() {
    let (_dir, run) = run();
    assert!(work(writer(open(&run, "c", "i")), 100));
    let stage = writer(open(&run, "c", "other"));
    assert!(!stage.resumed());
    assert!(stage.why().contains("inputs changed (expanded)"), "{}", stage.why());
    assert!(!stage.join("rows.jsonl").exists() && !stage.join(STAGE_FILE).exists());
    // An unfinished attempt with other inputs is not continued either.
    assert!(!work(stage, 3));
    let stage = writer(open(&run, "c", "i"));
    assert!(!stage.resumed() && !stage.join("rows.jsonl").exists());
    assert!(work(stage, 100));
    let stage = writer(open(&run, "d", "i"));
    assert!(stage.why().contains("recipe"), "{}", stage.why());
}

#[test]
fn damage_of_any_output_is_noticed() {
    let (_dir, run) = run();
    type Spoil = (&'static str, fn(&Path));
    let spoil: [Spoil; 4] = [
        ("rows.jsonl", |path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[2] ^= 1;
            fs::write(path, bytes).unwrap();
        }),
        ("images/2.png", |path| fs::write(path, "picture").unwrap()),
        ("images/0.png", |path| fs::remove_file(path).unwrap()),
        ("stage.json", |path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
        }),
    ];
    for (name, spoil) in spoil {
        let stage = writer(open(&run, "c", "i"));
        assert!(work(stage, 100));
        spoil(&run.join("candidates").join(name));
        let stage = writer(open(&run, "c", "i"));
        let file = Path::new(name).file_name().unwrap().to_str().unwrap();
        assert!(stage.why().contains(file), "{}", stage.why());
        assert!(!stage.resumed());
        drop(stage);
    }
}

/// The points within `finish` and within emptying a folder where a kill can come.
#[test]
fn kills_around_the_manifest_are_harmless() {
    let (_dir, run) = run();
    assert!(work(writer(open(&run, "c", "i")), 100));
    let dir = run.join("candidates");
    // Between the manifest and the removal of the note: finished.
    write_json(&dir.join(INPUTS_FILE), &1).unwrap();
    assert!(matches!(open(&run, "c", "i"), StageStatus::Finished(_)));
    // Before the manifest: all files there, no manifest, the note there: continued.
    let wanted = Inputs {
        stage: "generate".into(),
        version: VERSION,
        config_hash: "c".into(),
        inputs: inputs("i"),
    };
    write_json(&dir.join(INPUTS_FILE), &wanted).unwrap();
    fs::remove_file(dir.join(STAGE_FILE)).unwrap();
    let stage = writer(open(&run, "c", "i"));
    assert!(stage.resumed());
    assert!(work(stage, 1));
    // While emptying: neither manifest nor note, some files: anew.
    fs::remove_file(dir.join(STAGE_FILE)).unwrap();
    let stage = writer(open(&run, "c", "i"));
    assert!(!stage.resumed() && !stage.join("rows.jsonl").exists());
}

fn set_time(path: &Path, seconds: u64) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
    fs::File::options().write(true).open(path).unwrap().set_modified(time).unwrap();
}

/// A start compares lengths and times, and hashes what has another time, once.
#[test]
fn a_copy_without_times_is_hashed_once_and_accepted() {
    let (_dir, run) = run();
    assert!(work(writer(open(&run, "c", "i")), 100));
    let (picture, times) = (run.join("candidates/images/1.png"), ".stage-times");
    let read = || fs::read_to_string(run.join("candidates").join(times)).unwrap();
    let before = read();
    assert!(matches!(open(&run, "c", "i"), StageStatus::Finished(_)));
    assert_eq!(read(), before);
    // Another time, the same content: accepted, and the time is written down.
    set_time(&picture, 1_000_000);
    assert!(matches!(open(&run, "c", "i"), StageStatus::Finished(_)));
    let after = read();
    assert!(after != before && after.contains("1000000000000000\n"), "{after}");
    // Lost or torn times cost a hashing, no more.
    for text in ["", "x", &after[..after.len() / 2], &before] {
        fs::write(run.join("candidates").join(times), text).unwrap();
        assert!(matches!(open(&run, "c", "i"), StageStatus::Finished(_)));
        assert_eq!(read(), after);
    }
    fs::remove_file(run.join("candidates").join(times)).unwrap();
    assert!(matches!(open(&run, "c", "i"), StageStatus::Finished(_)));
    // What has its length and its time is not read: `craft verify` does that.
    fs::write(&picture, "picturf 1").unwrap();
    set_time(&picture, 1_000_000);
    let StageStatus::Finished(manifest) = open(&run, "c", "i") else { panic!("read") };
    set_time(&picture, 2_000_000);
    let found = manifest.damage(&run.join("candidates")).unwrap();
    assert_eq!(found, Some(Problem { path: picture, kind: ProblemKind::Content }));
    assert!(!writer(open(&run, "c", "i")).resumed());
}

/// The manifest's length does not grow with the number of candidates.
#[test]
fn many_outputs_stand_in_a_list_of_their_own() {
    const FEW: usize = 10;
    let finish = |n: usize| {
        let (dir, run) = run();
        let mut stage = writer(open(&run, "c", "i"));
        stage.few = FEW;
        atomic::create_dir(&stage.join("images")).unwrap();
        fs::write(stage.join("rows.jsonl"), "1\n").unwrap();
        for i in 0..n {
            fs::write(stage.join(format!("images/{i:06}.png")), i.to_string()).unwrap();
        }
        let manifest = stage.finish(BTreeMap::new(), Vec::new(), 0.0).unwrap();
        (dir, run, manifest)
    };
    let (_dir, run, few) = finish(FEW);
    assert_eq!((few.outputs.len(), few.listed.clone()), (FEW + 1, None));
    assert!(!run.join("candidates/outputs.jsonl").exists());
    let (_dir, run, many) = finish(FEW + 1);
    assert_eq!(many.outputs.keys().collect::<Vec<_>>(), ["rows.jsonl"]);
    assert_eq!((many.size().0, many.listed.as_ref().unwrap().files), (FEW as u64 + 2, 11));
    assert!(fs::metadata(run.join("candidates/stage.json")).unwrap().len() < 1000);
    assert_eq!(Manifest::of(run.path(), &Stage::GENERATE).unwrap(), Some(many.clone()));
    assert!(matches!(open(&run, "c", "i"), StageStatus::Finished(_)));
    // The digest stands for every listed file, whatever its time.
    assert_eq!(finish(FEW + 1).2.digest(), many.digest());
    assert_ne!(finish(FEW + 2).2.digest(), many.digest());
    fs::write(run.join("candidates/images/000007.png"), "8").unwrap();
    let stage = writer(open(&run, "c", "i"));
    assert!(stage.why().contains("000007.png"), "{}", stage.why());
    assert!(!stage.join("outputs.jsonl").exists());
}

/// Hashes of what a stage writes through its writer are those of the files.
#[test]
fn a_hash_that_is_known_is_that_of_the_file() {
    let hashed = |through: bool| {
        let (_dir, run) = run();
        let stage = writer(open(&run, "c", "i"));
        match through {
            true => stage.write("a.png", b"picture").unwrap(),
            false => atomic::write(&stage.join("a.png"), b"picture").unwrap(),
        }
        stage.finish(BTreeMap::new(), Vec::new(), 0.0).unwrap().outputs
    };
    assert_eq!(hashed(true), hashed(false));
}

/// Nothing of another version is deleted, nor changed at all.
#[test]
fn a_run_of_another_version_is_refused_untouched() {
    for (version, word) in [(1, "an older version"), (3, "a newer version")] {
        for (file, finished) in [(STAGE_FILE, true), (INPUTS_FILE, false)] {
            let (_dir, run) = run();
            assert_eq!(
                work(writer(open(&run, "c", "i")), if finished { 100 } else { 3 }),
                finished
            );
            let path = run.join("candidates").join(file);
            let text = fs::read_to_string(&path).unwrap();
            let other = format!("\"version\": {version}");
            fs::write(&path, text.replace("\"version\": 2", &other)).unwrap();
            let list = || crate::hash::files_below(run.path()).unwrap();
            let before = list();
            let error = Stage::GENERATE.open(&run, "d", &inputs("j")).unwrap_err();
            assert!(error.is_bad_input());
            let message = error.to_string();
            for word in [word, file, "Nothing was changed", "Continue it", "another folder"] {
                assert!(message.contains(word), "{message}");
            }
            let root = run.path().to_owned();
            assert_eq!(list(), before);
            drop(run);
            fs::remove_file(root.join(".lock")).unwrap();
            let opened = [RunFolder::open(&root), RunFolder::create_or_open(&root, "seed = 1\n")];
            assert!(opened.iter().all(|opened| opened.is_err()));
            assert!(!root.join(".lock").exists(), "nothing was changed");
        }
    }
}
