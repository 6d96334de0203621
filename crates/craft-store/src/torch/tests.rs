use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::Value as Json;

use super::*;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/torch").join(name)
}

/// Reads every tensor.
fn all(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let mut reader = TorchReader::open(path)?;
    reader.names().into_iter().map(|n| reader.read(&n).map(|t| (n, t))).collect()
}

fn refusal(path: &Path) -> String {
    let error = all(path).unwrap_err();
    assert!(error.is_bad_input(), "{error}");
    error.to_string()
}

#[test]
fn tensors_of_every_kind_are_those_of_torch() {
    let text = std::fs::read_to_string(fixture("expected.json")).unwrap();
    let expected: Json = serde_json::from_str(&text).unwrap();
    for (file, wanted) in expected.as_object().unwrap() {
        let found = all(&fixture(file)).unwrap();
        let wanted = wanted.as_object().unwrap();
        let mut names: Vec<&String> = wanted.keys().collect();
        names.sort();
        assert_eq!(found.keys().collect::<Vec<_>>(), names, "{file}");
        for (name, wanted) in wanted {
            let tensor = &found[name];
            let shape: Vec<usize> = serde_json::from_value(wanted["shape"].clone()).unwrap();
            let data: Vec<f64> = serde_json::from_value(wanted["data"].clone()).unwrap();
            let data: Vec<f32> = data.iter().map(|x| *x as f32).collect();
            assert_eq!((&tensor.shape, &tensor.data), (&shape, &data), "{file} {name}");
        }
    }
}

/// Every code of the formats of 8 bits has the value that torch gives it, signs of zeros and NaN included.
#[test]
fn numbers_of_eight_bits_are_those_of_torch() {
    let mut reader = TorchReader::open(&fixture("float8.pt")).unwrap();
    for name in ["e4m3", "e5m2"] {
        let found = reader.read(name).unwrap().data;
        let wanted = reader.read(&format!("{name}.float")).unwrap().data;
        assert_eq!((found.len(), wanted.len()), (256, 256));
        for (code, (a, b)) in found.iter().zip(&wanted).enumerate() {
            assert!(
                a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan(),
                "{name} {code}: {a} {b}"
            );
        }
    }
    assert_eq!(reader.dtype("e5m2").as_deref(), Some("F8_E5M2"));
    let whole = reader.read("e4m3").unwrap().data;
    let part = reader.read("strided").unwrap();
    assert_eq!((part.shape.as_slice(), part.data[1]), ([4, 2].as_slice(), whole[3 * 16 + 3]));
}

#[test]
fn hostile_and_foreign_files_are_refused_by_name() {
    for (file, reason) in [
        ("hostile.pt", ".system`"),
        ("torchscript.pt", "TorchScript program"),
        ("sparse.pt", "`torch._utils._rebuild_sparse_tensor`"),
        ("object.pt", "`omegaconf.dictconfig.DictConfig`, which is no module"),
        ("no_tensors.pt", "no tensors"),
        ("legacy.pt", "before 1.6"),
        ("hostile_compressed.pt", "compressed"),
        ("expected.json", "not a zip file"),
    ] {
        let message = refusal(&fixture(file));
        assert!(message.contains(reason) && message.contains(file), "{message}");
    }
    assert!(!Path::new("hostile.txt").exists());
}

#[test]
fn objects_are_records_and_modules_their_state_dict() {
    // `tensors_of_every_kind_are_those_of_torch` compares values.
    let names = |file: &str| TorchReader::open(&fixture(file)).unwrap().names();
    let found = names("modules.pt");
    for name in ["attention.table", "attention.tied.weight", "attention.extra.gate"] {
        assert!(found.iter().any(|n| n == name), "{name} of {found:?}");
    }
    // Not persistent, and a tensor in the settings of the module.
    assert!(!found.iter().any(|n| n.contains("passing") || n.contains("config")), "{found:?}");
    assert_eq!(found, names("modules4.pt"));
    assert_eq!(names("lightning.ckpt"), names("kinds.pt"));
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let bytes = std::fs::read(fixture("module.bin")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.bin");
    for length in 0..bytes.len() {
        std::fs::write(&path, &bytes[..length]).unwrap();
        refusal(&path);
    }
}

#[test]
fn a_flipped_bit_is_refused_or_changes_nothing() {
    let path = fixture("module.bin");
    let (bytes, wanted) = (std::fs::read(&path).unwrap(), all(&path).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("flipped.bin");
    let mut refused = 0;
    for at in 0..bytes.len() {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(&path, &flipped).unwrap();
        match all(&path) {
            Ok(found) => assert_eq!(found, wanted, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 1000, "{refused}");
}

#[test]
fn hostile_pickles_end_without_much_memory() {
    let run = |bytes: &[u8]| Pickle::run(bytes).map(|(p, top)| names(&p, top));
    let endless = vec![b'}'; MAX_PICKLE_BYTES as usize];
    assert!(run(&endless).unwrap_err().contains("more than"));
    // Thousands of records, none of which is a module.
    let mut records = b"\x80\x02}(".to_vec();
    for key in 0..4000u16 {
        records.push(b'M');
        records.extend(key.to_le_bytes());
        records.extend(b"ca.b\nC\n)\x81}b");
    }
    records.extend(b"u.");
    assert!(run(&records).unwrap().unwrap_err().contains("no tensors"));
    // A module that is its own child.
    let module = b"\x80\x02ca\nC\n)\x81q\x00}(X\x0b\x00\x00\x00_parameters}X\x08\x00\x00\x00_buffers}X\x08\x00\x00\x00_modules}X\x01\x00\x00\x00ah\x00sub.";
    let inside = run(module).unwrap().unwrap_err();
    assert!(inside.contains("nests deeper"), "{inside}");
    // A dict inside itself.
    let inside = run(b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.").unwrap().unwrap_err();
    assert!(inside.contains("deeper"), "{inside}");
    // A text that claims 4 GiB.
    assert!(run(b"\x80\x02X\xff\xff\xff\xff.").unwrap_err().contains("ends in the middle"));
    for (bytes, reason) in [
        (&b"\x80\x02cos\nsystem\n."[..], "`os.system`"),
        (b"\x80\x02cbuiltins\neval\n.", "`builtins.eval`"),
        (b"\x80\x02i", "operation 0x69"),
        (b"\x80\x02R", "empty stack"),
        (b"\x80\x02\x7f", "operation 0x7f"),
        (b"\x80\x02t", "mark"),
        (b"\x80\x02K\x01)R", "calls what is no function"),
        (b"\x80\x02ca\nC\nK\x01R", "where a tuple should be"),
        (b"\x80\x02K\x01}b", "sets attributes"),
        (b"\x80\x04\x8c\x02os\x8c\x06system\x93", "`os.system`"),
        (b"\x80\x04\x8c\x07pathlib\x8c\x09os.system\x93", "`pathlib.os.system`"),
    ] {
        let message = run(bytes).unwrap_err();
        assert!(message.contains(reason), "{message}");
    }
}

#[test]
fn views_stay_inside_their_storage() {
    let view = |offset, shape: &[usize], strides: &[usize]| View {
        storage: "0".into(),
        dtype: Dtype::F32,
        stored: 6,
        offset,
        shape: shape.into(),
        strides: strides.into(),
    };
    assert_eq!(view(0, &[2, 3], &[3, 1]).span(), Ok((0, 6)));
    assert_eq!(view(1, &[3], &[2]).span(), Ok((1, 6)));
    for bad in [
        view(1, &[2, 3], &[3, 1]),
        view(0, &[1 << 40], &[0]),
        view(0, &[2], &[usize::MAX]),
        view(u64::MAX, &[2], &[1]),
        view(0, &[usize::MAX, usize::MAX], &[0, 0]),
        view(0, &[2], &[1, 1]),
    ] {
        assert!(bad.span().is_err(), "{bad:?}");
    }
}

#[test]
fn the_aesthetic_predictor_loads() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/weights/sac+logos+ava1-l14-linearMSE.pth");
    if !path.exists() {
        #[allow(clippy::print_stderr)]
        {
            eprintln!("skipped: {} is not there", path.display());
        }
        return;
    }
    let found = all(&path).unwrap();
    assert_eq!(found["layers.0.weight"].shape, [1024, 768]);
    assert_eq!(found["layers.7.bias"].shape, [1]);
    assert_eq!(found.len(), 10);
    assert!(found.values().all(|t| t.data.iter().all(|x| x.is_finite())));
}
