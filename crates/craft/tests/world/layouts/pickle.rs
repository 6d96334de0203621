//! Files of `torch.save`: a zip whose pickle is a dictionary of tensors.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use craft_store::raw::Format;

use super::facts::Tensor;
use super::files::bytes;

/// Writes tensors as `torch.save` does, below `nested` where that is given, beside what a training
/// leaves there.
pub(super) fn write(path: &Path, tensors: &BTreeMap<String, Tensor>, nested: Option<&str>) {
    let mut pickle = vec![0x80, 2, b'}', b'('];
    if let Some(key) = nested {
        for (name, number) in [("epoch", 1), ("global_step", 2)] {
            text(&mut pickle, name);
            int(&mut pickle, number);
        }
        text(&mut pickle, key);
        pickle.extend(b"}(");
    }
    let mut zip = Zip::default();
    for (key, (name, (format, shape))) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        tensor(&mut pickle, key, *format, shape);
        zip.add(&format!("archive/data/{key}"), &bytes(name, *format, shape));
    }
    pickle.extend(if nested.is_some() { &b"uu."[..] } else { b"u." });
    zip.add("archive/data.pkl", &pickle);
    zip.add("archive/version", b"3\n");
    fs::write(path, zip.end()).unwrap();
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.bytes());
}

fn int(pickle: &mut Vec<u8>, n: i32) {
    pickle.push(b'J');
    pickle.extend(n.to_le_bytes());
}

fn ints(pickle: &mut Vec<u8>, numbers: impl Iterator<Item = usize>) {
    pickle.push(b'(');
    numbers.for_each(|n| int(pickle, n as i32));
    pickle.push(b't');
}

/// `torch._utils._rebuild_tensor_v2(storage, 0, size, stride, False, OrderedDict())`.
fn tensor(pickle: &mut Vec<u8>, key: usize, format: Format, shape: &[usize]) {
    let storage = match format {
        Format::F16 => "HalfStorage",
        Format::I64 => "LongStorage",
        Format::I32 => "IntStorage",
        _ => "FloatStorage",
    };
    pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
    text(pickle, "storage");
    pickle.extend(format!("ctorch\n{storage}\n").bytes());
    text(pickle, &key.to_string());
    text(pickle, "cpu");
    int(pickle, shape.iter().product::<usize>() as i32);
    pickle.extend(b"tQ");
    int(pickle, 0);
    ints(pickle, shape.iter().copied());
    ints(pickle, (0..shape.len()).map(|axis| shape[axis + 1..].iter().product()));
    pickle.extend(b"\x89ccollections\nOrderedDict\n)RtR");
}

/// A zip archive of stored files.
#[derive(Default)]
struct Zip {
    bytes: Vec<u8>,
    directory: Vec<u8>,
    files: u16,
}

impl Zip {
    fn add(&mut self, name: &str, contents: &[u8]) {
        let at = self.bytes.len() as u32;
        let mut head = vec![];
        for field in [20u16, 0, 0, 0, 0] {
            head.extend(field.to_le_bytes()); // Version, flags, method, time, date.
        }
        head.extend(crc32(contents).to_le_bytes());
        head.extend((contents.len() as u32).to_le_bytes());
        head.extend((contents.len() as u32).to_le_bytes());
        head.extend((name.len() as u16).to_le_bytes());
        head.extend(0u16.to_le_bytes());
        self.bytes.extend(b"PK\x03\x04");
        self.bytes.extend(&head);
        self.bytes.extend(name.bytes());
        self.bytes.extend(contents);
        self.directory.extend(b"PK\x01\x02\x14\0");
        self.directory.extend(&head);
        self.directory.extend([0; 10]); // Comment, disk, attributes.
        self.directory.extend(at.to_le_bytes());
        self.directory.extend(name.bytes());
        self.files += 1;
    }

    fn end(mut self) -> Vec<u8> {
        let (at, length) = (self.bytes.len() as u32, self.directory.len() as u32);
        self.bytes.append(&mut self.directory);
        self.bytes.extend(b"PK\x05\x06\0\0\0\0");
        self.bytes.extend(self.files.to_le_bytes());
        self.bytes.extend(self.files.to_le_bytes());
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend(0u16.to_le_bytes());
        self.bytes
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    let table: Vec<u32> = (0..256u32)
        .map(|n| (0..8).fold(n, |c, _| if c & 1 == 1 { 0xedb8_8320 ^ (c >> 1) } else { c >> 1 }))
        .collect();
    !bytes.iter().fold(!0, |c, b| table[usize::from(c as u8 ^ b)] ^ (c >> 8))
}
