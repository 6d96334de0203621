//! JPEGs against Pillow (fixtures/jpeg), and damaged ones.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

use std::fs;
use std::path::PathBuf;

use craft_store::image;

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/jpeg").join(name)
}

/// Names without their ends.
fn names() -> Vec<String> {
    let files = fs::read_dir(fixture("")).unwrap().map(|f| f.unwrap().path());
    let jpegs = files.filter(|path| path.extension().is_some_and(|end| end == "jpg"));
    jpegs.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_kind_gives_pillows_pixels() {
    let names = names();
    assert_eq!(names.len(), 14);
    for name in names {
        let found = image::read(&fixture(&format!("{name}.jpg"))).unwrap();
        let expected = image::read(&fixture(&format!("{name}.png"))).unwrap();
        assert_eq!((found.width, found.height), (expected.width, expected.height), "{name}");
        let wrong = found.data.iter().zip(&expected.data).filter(|(a, b)| a != b).count();
        assert_eq!(wrong, 0, "{name}: bytes that differ");
    }
}

#[test]
fn cut_short_is_refused_wherever_it_is_cut() {
    for name in ["quarter", "restarts", "progressive", "grey"] {
        let whole = fs::read(fixture(&format!("{name}.jpg"))).unwrap();
        // The end marker alone may be missing of a picture in one scan.
        for cut in 3..whole.len() - 3 {
            let message = image::decode(&whole[..cut]).unwrap_err();
            assert!(message.contains("damaged or cut short"), "{name}, {cut}: {message}");
        }
        let without_end = image::decode(&whole[..whole.len() - 2]);
        assert_eq!(without_end.is_ok(), name != "progressive", "{name}");
    }
}

#[test]
fn flipped_bits_are_refused_or_read_but_never_stop_the_program() {
    for name in ["wide", "progressive", "inks", "restarts"] {
        let whole = fs::read(fixture(&format!("{name}.jpg"))).unwrap();
        for byte in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[byte] ^= 1 << bit;
                let _ = image::decode(&bytes);
            }
        }
    }
}

#[test]
fn what_is_not_supported_is_named() {
    let whole = fs::read(fixture("full.jpg")).unwrap();
    let frame = whole.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let message = |changes: &[(usize, u8)]| {
        let mut bytes = whole.clone();
        for (at, value) in changes {
            bytes[frame + at] = *value;
        }
        image::decode(&bytes).unwrap_err()
    };
    assert!(message(&[(1, 0xc9)]).contains("arithmetic coding"));
    assert!(message(&[(1, 0xc3)]).contains("lossless coding"));
    assert!(message(&[(4, 12)]).contains("12 bits a sample"));
    assert!(message(&[(9, 2)]).contains("2 components"));
    // Heights and widths of 0 and of 65535.
    assert!(message(&[(5, 0), (6, 0)]).contains("no size"));
    let huge = message(&[(5, 255), (6, 255), (7, 255), (8, 255)]);
    assert!(huge.contains("65535×65535") && huge.contains("8192"), "{huge}");
}
