//! Files that are no files, and pictures that want all memory: refused by name, quickly.
#![cfg(unix)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use craft_store::image::{self, RgbImage};

use crate::support::Tiny;

/// Runs a command that must end soon; its exit code, standard error and peak memory in bytes.
fn bounded(tiny: &Tiny, args: &[&str], limit: Duration) -> (Option<i32>, String, u64) {
    let errors = tiny.path("errors.txt");
    let mut child = Command::new(env!("CARGO_BIN_EXE_craft"))
        .args(args)
        .current_dir(tiny.path("."))
        .env("CRAFT_POCKET_DIR", tiny.path("model"))
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(&errors).unwrap())
        .spawn()
        .unwrap();
    let begun = Instant::now();
    let mut most = 0;
    loop {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            return (status.code(), fs::read_to_string(errors).unwrap(), most);
        }
        if begun.elapsed() > limit {
            child.kill().unwrap();
            panic!("craft {} was not done after {limit:?}", args.join(" "));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn devices_pipes_sockets_and_folders_are_refused_wherever_a_file_is_given() {
    let tiny = Tiny::new();
    assert!(Command::new("mkfifo").arg(tiny.path("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(tiny.path("socket")).unwrap();
    fs::create_dir(tiny.path("folder")).unwrap();
    tiny.write("a.png", png(16));
    for (file, kind) in [
        ("/dev/zero", "a device"),
        ("pipe", "a named pipe"),
        ("socket", "a socket"),
        ("folder", "a folder"),
    ] {
        let train = format!("prompts.train={file}");
        let wordings = format!("expand.file={file}");
        let weights = format!("tiny={file}");
        let out = format!("out-{}", kind.replace(' ', "-"));
        let lora = ["sample", "--model", "model", "--prompt", "x", "--steps", "1", "--lora", file];
        let score = ["score", "--prompt", "x", "--reward"];
        let mut commands = vec![
            [&score[..], &["jpeg-size", file]].concat(),
            vec!["run", file],
            vec!["run", "recipe.toml", "--out", "out", "--set", &train],
            vec![
                "run",
                "recipe.toml",
                "--out",
                &out,
                "--set",
                "expand.kind=file",
                "--set",
                &wordings,
            ],
        ];
        if kind != "a folder" {
            // A folder is a place for adapters and weights.
            commands.push(lora.to_vec());
            commands.push([&score[..], &["pocket-hps", "--reward", &weights, "a.png"]].concat());
        }
        for args in commands {
            let (code, error, memory) = bounded(&tiny, &args, Duration::from_secs(60));
            assert!(matches!(code, Some(2 | 3)), "craft {}: {code:?} {error}", args.join(" "));
            let line = error.lines().find(|line| line.starts_with("error: ")).unwrap();
            assert!(line.contains(file), "craft {}: {line}", args.join(" "));
            assert!(memory < 1 << 30, "craft {}: {memory} bytes", args.join(" "));
            // A folder of prompt files is a list; an empty one is refused in other words.
            let folder_of_prompts = kind == "a folder" && args.contains(&train.as_str());
            let other_words = ["--lora", weights.as_str()].iter().any(|word| args.contains(word))
                || folder_of_prompts;
            if !other_words {
                assert!(line.contains(&format!("it is {kind}: expected")), "{line}");
            }
        }
        let model = tiny.path("model/unet/diffusion_pytorch_model.safetensors");
        let kept = tiny.path("kept");
        if kind == "a named pipe" {
            fs::rename(&model, &kept).unwrap();
            fs::rename(tiny.path("pipe"), &model).unwrap();
            let args = ["sample", "--model", "model", "--prompt", "x", "--steps", "1"];
            let (code, error, _) = bounded(&tiny, &args, Duration::from_secs(60));
            assert_eq!(code, Some(3), "{error}");
            assert!(error.contains("unet/diffusion_pytorch_model.safetensors"), "{error}");
            fs::rename(&model, tiny.path("pipe")).unwrap();
            fs::rename(&kept, &model).unwrap();
        }
    }
}

/// The most memory that one picture may take.
const MOST: u64 = 1 << 30;

/// A PNG of one colour.
fn png(side: usize) -> Vec<u8> {
    let picture = RgbImage::new(side, side, vec![7; 3 * side * side]).unwrap();
    image::encode_png(&picture, None).unwrap()
}

/// A progressive JPEG of one colour with so many further scans in which nothing changes.
fn empty_scans(side: u16, components: u8, scans: usize) -> Vec<u8> {
    fn segment(out: &mut Vec<u8>, marker: u8, content: &[u8]) {
        out.extend([0xff, marker]);
        out.extend((content.len() as u16 + 2).to_be_bytes());
        out.extend(content);
    }
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xdb, &[&[0][..], &[1; 64]].concat());
    let [high, low] = side.to_be_bytes();
    let mut frame = vec![8, high, low, high, low, components];
    frame.extend((1..=components).flat_map(|id| [id, 0x11, 0]));
    segment(&mut out, 0xc2, &frame);
    // One code of one bit each: a difference of 0, and a run of 2^14 and more blocks without anything.
    let counts: Vec<u8> = (0..16).map(|i| u8::from(i == 0)).collect();
    segment(&mut out, 0xc4, &[&[0x00][..], &counts, &[0]].concat());
    segment(&mut out, 0xc4, &[&[0x10][..], &counts, &[0xe0]].concat());
    let blocks = (usize::from(side) / 8).pow(2);
    let mut header = vec![components];
    header.extend((1..=components).flat_map(|id| [id, 0]));
    header.extend([0, 0, 0]);
    segment(&mut out, 0xda, &header);
    out.extend(vec![0; (blocks * usize::from(components)).div_ceil(8)]);
    for scan in 0..scans {
        let id = 1 + (scan % usize::from(components)) as u8;
        segment(&mut out, 0xda, &[1, id, 0, 1, 63, 0]);
        // A code of one bit and 14 bits of zeros, again and again.
        out.extend(vec![0; (blocks.div_ceil(1 << 14) * 15).div_ceil(8)]);
    }
    out.extend([0xff, 0xd9]);
    out
}

#[test]
fn the_largest_pictures_take_at_most_a_gibibyte() {
    let tiny = Tiny::new();
    tiny.write("rgb.png", png(8192));
    tiny.write("colours.jpg", empty_scans(8192, 3, 6));
    tiny.write("inks.jpg", empty_scans(8192, 4, 4));
    for (picture, reward) in [
        ("rgb.png", "pocket-hps"),
        ("rgb.png", "jpeg-size"),
        ("rgb.png", "colorfulness"),
        ("colours.jpg", "pocket-pick"),
        ("inks.jpg", "pocket-pick"),
    ] {
        let args = ["score", "--reward", reward, "--prompt", "x", picture];
        let (code, error, memory) = bounded(&tiny, &args, Duration::from_secs(300));
        assert_eq!(code, Some(0), "{picture}: {error}");
        assert!(memory < MOST, "{picture}, {reward}: {} MiB", memory >> 20);
    }
}

#[test]
fn hundreds_of_empty_scans_are_refused_in_time() {
    let tiny = Tiny::new();
    tiny.write("many.jpg", empty_scans(8192, 3, 450));
    let args = ["score", "--reward", "jpeg-size", "--prompt", "x", "many.jpg"];
    let (code, error, memory) = bounded(&tiny, &args, Duration::from_secs(120));
    assert_eq!(code, Some(3), "{error}");
    assert!(error.contains("many.jpg") && error.contains("go through the picture"), "{error}");
    assert!(memory < MOST, "{} MiB", memory >> 20);
    // As many in a small picture cost nothing.
    tiny.write("few.jpg", empty_scans(64, 3, 450));
    tiny.expect(&["score", "--reward", "colorfulness", "--prompt", "x", "few.jpg"], 0, &[]);
}

#[test]
fn a_score_command_without_a_single_score_fails() {
    let tiny = Tiny::new();
    tiny.write("a.png", png(16));
    let failing = ["score", "--reward", "mine=command:false", "--prompt", "x", "a.png"];
    let line = tiny.expect(&failing, 1, &["no picture got a score; the first reason: "]);
    assert!(line.contains("\"missing\""), "{line}");
    // One of two is a success.
    let mut args = failing.to_vec();
    args.extend(["--reward", "colorfulness"]);
    tiny.expect(&args, 0, &[]);
}
