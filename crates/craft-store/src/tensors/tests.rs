use super::*;
use safetensors::tensor::TensorView;
use std::fs;
use std::path::Path;

fn sample() -> BTreeMap<String, Tensor> {
    BTreeMap::from([
        (
            "b.weight".to_owned(),
            Tensor::new([2, 3], vec![0.5, -1.0, 2.0, 0.25, 1e-3, 7.0]).unwrap(),
        ),
        ("a.bias".to_owned(), Tensor::new([3], vec![1.0, 2.0, 3.0]).unwrap()),
        ("empty".to_owned(), Tensor::new([0, 4], vec![]).unwrap()),
        ("scalar".to_owned(), Tensor::new([], vec![4.0]).unwrap()),
    ])
}

#[test]
fn tensors_round_trip_and_the_library_reads_them() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    write_map(&path, &sample(), Dtype::F32).unwrap();
    assert_eq!(read(&path).unwrap(), sample());
    let bytes = fs::read(&path).unwrap();
    let parsed = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(parsed.tensor("b.weight").unwrap().shape(), [2, 3]);
    assert_eq!(u64::from_le_bytes(bytes[..8].try_into().unwrap()) % 8, 0);
    write_map(&path, &sample(), Dtype::F16).unwrap();
    let half = read(&path).unwrap();
    assert_eq!(half["a.bias"], sample()["a.bias"]);
    assert!((half["b.weight"].data[4] - 1e-3).abs() < 1e-6);
    let mut reader = TensorReader::open(&path).unwrap();
    assert_eq!(reader.names(), ["a.bias", "b.weight", "empty", "scalar"]);
    assert_eq!(reader.dtype("a.bias").as_deref(), Some("F16"));
    assert_eq!(reader.metadata()["format"], "pt");
    assert!(reader.read("nothing").unwrap_err().to_string().contains("`nothing`"));
}

#[test]
fn bytes_do_not_depend_on_order() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let texts =
        BTreeMap::from([("z".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
    let tensors: [TensorRef; 2] = [("b", &[1], &[1.0]), ("a", &[2], &[2.0, 3.0])];
    write(&path, &tensors, Dtype::F32, &texts).unwrap();
    let first = fs::read(&path).unwrap();
    write(&path, &[tensors[1], tensors[0]], Dtype::F32, &texts).unwrap();
    assert_eq!(fs::read(&path).unwrap(), first);
}

/// Every number format that is read, written by the library.
#[test]
fn number_formats() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    use safetensors::Dtype as D;
    let cases: Vec<(D, Vec<u8>)> = vec![
        (D::F64, [1.5f64, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect()),
        (D::F32, [1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()).collect()),
        (D::F16, [1.5, -2.0].iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect()),
        (D::BF16, [1.5, -2.0].iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
    ];
    for (dtype, bytes) in cases {
        let view = TensorView::new(dtype, vec![2], &bytes).unwrap();
        fs::write(&path, safetensors::serialize([("x", view)], None).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap()["x"].data, [1.5, -2.0], "{dtype:?}");
    }
    let ids: Vec<u8> = [49_407i64, (1 << 24) + 1].iter().flat_map(|x| x.to_le_bytes()).collect();
    let view = TensorView::new(D::I64, vec![2], &ids).unwrap();
    fs::write(&path, safetensors::serialize([("ids", view)], None).unwrap()).unwrap();
    let mut reader = TensorReader::open(&path).unwrap();
    assert_eq!(reader.read_i64("ids").unwrap(), (vec![2], vec![49_407, (1 << 24) + 1]));
    assert!(reader.read("ids").unwrap_err().to_string().contains("16777217"));
}

#[test]
fn files_cut_at_any_byte_are_refused_with_their_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    write_map(&path, &sample(), Dtype::F32).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.is_bad_input());
        assert!(error.to_string().contains("a.safetensors"), "{error}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    fs::write(&path, longer).unwrap();
    assert!(read(&path).is_err());
}

#[test]
fn flipped_bits_in_the_header_never_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    write_map(&path, &sample(), Dtype::F32).unwrap();
    let whole = fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    for byte in 0..header {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[byte] ^= 1 << bit;
            fs::write(&path, bytes).unwrap();
            let _ = read(&path);
        }
    }
    fs::write(&path, b"PK\x03\x04 a pickle in a zip archive").unwrap();
    assert!(read(&path).unwrap_err().to_string().contains("zip directory"));
}

#[test]
fn what_cannot_be_written_is_refused_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let none = BTreeMap::new();
    let cases: [(&[TensorRef], Dtype, &str); 4] = [
        (&[("x", &[2], &[1.0])], Dtype::F32, "does not fit"),
        (&[("x", &[1], &[7e4])], Dtype::F16, "too large"),
        (&[("x", &[1], &[1.0]), ("x", &[1], &[1.0])], Dtype::F32, "twice"),
        (&[("__metadata__", &[1], &[1.0])], Dtype::F32, "reserved"),
    ];
    for (tensors, dtype, word) in cases {
        let message = write(&path, tensors, dtype, &none).unwrap_err().to_string();
        assert!(message.contains(word), "{message}");
    }
    assert!(fs::read_dir(dir.path()).unwrap().next().is_none());
    write(&path, &[("x", &[2], &[1.0, f32::NAN])], Dtype::F32, &none).unwrap();
    assert!(read(&path).is_ok());
    let message = read_finite(&path).unwrap_err().to_string();
    assert!(message.contains("`x`: value 1 is NaN"), "{message}");
}

fn with_header(path: &Path, header: &str, data: usize) {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 0);
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_name_that_occurs_twice_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let one = |name: &str, place: usize| {
        format!(
            "\"{name}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{place},{}]}}",
            place + 4
        )
    };
    for (second, place, bytes) in [("w", 0, 4), ("w", 4, 8)] {
        with_header(&path, &format!("{{{},{}}}", one("w", 0), one(second, place)), bytes);
        let error = read(&path).unwrap_err();
        assert!(error.is_bad_input() && error.to_string().contains("occurs twice: `w`"), "{error}");
    }
    let texts = "\"__metadata__\":{\"a\":\"b\"}";
    with_header(&path, &format!("{{{texts},{texts},{}}}", one("w", 0)), 4);
    assert!(read(&path).unwrap_err().to_string().contains("occurs twice: `__metadata__`"));
    with_header(&path, &format!("{{{texts},{},{}}}", one("w", 4), one("v", 0)), 8);
    assert_eq!(read(&path).unwrap().len(), 2);
    let long = "n".repeat(100_000);
    with_header(&path, &format!("{{{}}}", one(&long, 0)), 4);
    let message = read(&path).unwrap_err().to_string();
    assert!(message.contains("more than 1024 bytes") && message.len() < 600, "{message}");
    for bad in ["[]", "1", "{} x", "{\"w\": 1}", ""] {
        with_header(&path, bad, 0);
        assert!(read(&path).unwrap_err().to_string().contains("its header is wrong"), "{bad}");
    }
}

#[test]
fn a_header_of_a_million_names_is_refused_soon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.safetensors");
    let mut header = String::from("{");
    for index in 0..1_000_000 {
        header.push_str(&format!(
            "\"{index}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}},"
        ));
    }
    header.pop();
    header.push('}');
    with_header(&path, &header, 0);
    let start = std::time::Instant::now();
    let message = read(&path).unwrap_err().to_string();
    assert!(message.contains("more than 100000 tensors"), "{message}");
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}
