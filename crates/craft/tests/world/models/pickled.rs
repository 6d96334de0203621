//! Files of `torch.save` without Python: a zip archive, uncompressed, of a pickle and raw storages.

use std::path::Path;

use craft_store::raw::{Format, Raw};

/// Writes tensors as `torch.save` does a state dict.
pub(super) fn write(path: &Path, tensors: &[(String, Raw)]) {
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut entries = Vec::new();
    for (index, (name, raw)) in tensors.iter().enumerate() {
        tensor(&mut pickle, name, &index.to_string(), raw);
        entries.push((format!("archive/data/{index}"), raw.bytes.clone()));
    }
    pickle.extend(b"u.");
    entries.insert(0, ("archive/data.pkl".to_owned(), pickle));
    std::fs::write(path, zip(&entries)).unwrap();
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.push(b'X');
    out.extend((text.len() as u32).to_le_bytes());
    out.extend(text.as_bytes());
}

fn number(out: &mut Vec<u8>, number: usize) {
    out.push(b'J');
    out.extend((number as i32).to_le_bytes());
}

fn global(out: &mut Vec<u8>, module: &str, name: &str) {
    out.extend(format!("c{module}\n{name}\n").as_bytes());
}

fn tensor(out: &mut Vec<u8>, name: &str, key: &str, raw: &Raw) {
    let count = raw.bytes.len() * 8 / raw.format.bitsize();
    let (storage, young) = match raw.format {
        Format::F32 => ("FloatStorage", None),
        Format::F16 => ("HalfStorage", None),
        Format::I64 => ("LongStorage", None),
        Format::F8_E4M3 => ("UntypedStorage", Some("float8_e4m3fn")),
        Format::F8_E5M2 => ("UntypedStorage", Some("float8_e5m2")),
        other => panic!("{other} is not written"),
    };
    text(out, name);
    let version = if young.is_some() { "_rebuild_tensor_v3" } else { "_rebuild_tensor_v2" };
    global(out, "torch._utils", version);
    out.extend(b"((");
    text(out, "storage");
    global(out, if young.is_some() { "torch.storage" } else { "torch" }, storage);
    text(out, key);
    text(out, "cpu");
    number(out, count);
    out.extend(b"tQ");
    number(out, 0);
    out.push(b'(');
    raw.shape.iter().for_each(|size| number(out, *size));
    out.extend(b"t(");
    for axis in 0..raw.shape.len() {
        number(out, raw.shape[axis + 1..].iter().product());
    }
    out.extend(b"t\x89");
    global(out, "collections", "OrderedDict");
    out.extend(b")R");
    if let Some(format) = young {
        global(out, "torch", format);
    }
    out.extend(b"tR");
}

fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let start = out.len() as u32;
        let mut head = Vec::new();
        // Version, flags, method, time, date.
        head.extend([10u8, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        head.extend(crc32(bytes).to_le_bytes());
        head.extend((bytes.len() as u32).to_le_bytes());
        head.extend((bytes.len() as u32).to_le_bytes());
        head.extend((name.len() as u16).to_le_bytes());
        head.extend([0u8, 0]);
        out.extend(b"PK\x03\x04");
        out.extend(&head);
        out.extend(name.as_bytes());
        out.extend(bytes);
        directory.extend(b"PK\x01\x02\x0a\x00");
        directory.extend(&head);
        // Comment, disk, attributes, place.
        directory.extend([0u8; 10]);
        directory.extend(start.to_le_bytes());
        directory.extend(name.as_bytes());
    }
    let (start, size) = (out.len() as u32, directory.len() as u32);
    out.extend(directory);
    out.extend(b"PK\x05\x06\0\0\0\0");
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend((entries.len() as u16).to_le_bytes());
    out.extend(size.to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0u8, 0]);
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    };
    !bytes.iter().fold(!0, step)
}
