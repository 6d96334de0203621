//! Methods that draw as they go: stopped and killed within an iteration, they end as if they had not been.

use std::fs;
use std::thread::sleep;
use std::time::Instant;

use crate::process::Process;
use crate::stops::fraction;
use crate::support::Tiny;

const METHODS: [&str; 2] = ["ddpo", "spo"];

fn compare(out: &str) -> Vec<&str> {
    let set = [
        "--set",
        "generate.steps=6",
        "--set",
        "generate.batch=4",
        "--set",
        "train.steps=14",
        "--set",
        "train.batch=16",
    ];
    let args = ["compare", "recipe.toml", "--methods", "ddpo,spo", "--seeds", "1", "--out", out];
    [&args[..], &set].concat()
}

#[test]
fn methods_that_draw_keep_what_they_drew() {
    let tiny = Tiny::new();
    let begun = Instant::now();
    tiny.expect(&compare("whole"), 0, &[]);
    let whole = begun.elapsed();
    let (mut stops, mut attempt) = (0, 0);
    // Every other one is asked to stop, the rest are killed.
    loop {
        attempt += 1;
        let mut process = Process::start(&tiny, &compare("out"));
        if stops < 8 {
            sleep(whole.mul_f64(0.25 + 0.6 * fraction(100 + attempt)));
            process.signal(["-INT", "-KILL"][attempt as usize % 2]);
        }
        match process.end() {
            Some(0) => break,
            code => assert!(code.is_none() || code == Some(130), "attempt {attempt}: {code:?}"),
        }
        stops += 1;
    }
    assert!(stops >= 2, "{stops}");
    for method in METHODS {
        for file in ["scores.jsonl", "diffusion_pytorch_model.safetensors"] {
            let read = |out: &str| {
                fs::read(tiny.path(&format!("{out}/seed-1/methods/{method}/{file}"))).unwrap()
            };
            assert!(read("whole") == read("out"), "{method}: {file} differs");
        }
        let result = |out: &str| {
            let path = tiny.path(&format!("{out}/seed-1/methods/{method}/result.json"));
            let found: serde_json::Value =
                serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
            (found["images_generated"].clone(), found["sample_passes"].clone())
        };
        assert_eq!(result("whole"), result("out"), "{method}");
        let folder = tiny.path(&format!("out/seed-1/methods/{method}"));
        let names = fs::read_dir(folder).unwrap();
        let drawn = |entry: fs::DirEntry| entry.file_name().to_string_lossy().ends_with("-drawn");
        assert!(!names.flatten().any(drawn), "what was drawn is removed at the end");
    }
}
