use super::*;
use crate::jsonl::{self, Appender};

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
