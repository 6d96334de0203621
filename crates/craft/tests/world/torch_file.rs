//! A file of `torch.save` that holds a dict of f32 tensors, written without PyTorch.

use std::collections::BTreeMap;

use craft_store::tensors::Tensor;

/// The bytes of the file.
pub(super) fn torch_save(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    for (place, (name, tensor)) in tensors.iter().enumerate() {
        text(&mut pickle, name);
        pickle.extend(b"ctorch._utils\n_rebuild_tensor_v2\n((");
        text(&mut pickle, "storage");
        pickle.extend(b"ctorch\nFloatStorage\n");
        text(&mut pickle, &place.to_string());
        text(&mut pickle, "cpu");
        number(&mut pickle, tensor.data.len());
        pickle.extend(b"tQ");
        number(&mut pickle, 0);
        pickle.push(b'(');
        tensor.shape.iter().for_each(|n| number(&mut pickle, *n));
        pickle.extend(b"t(");
        for axis in 0..tensor.shape.len() {
            number(&mut pickle, tensor.shape[axis + 1..].iter().product());
        }
        pickle.extend(b"t\x89ccollections\nOrderedDict\n)RtR");
    }
    pickle.extend(b"u.");
    let mut entries = vec![("archive/data.pkl".to_owned(), pickle)];
    for (place, tensor) in tensors.values().enumerate() {
        let bytes = tensor.data.iter().flat_map(|x| x.to_le_bytes()).collect();
        entries.push((format!("archive/data/{place}"), bytes));
    }
    entries.push(("archive/version".to_owned(), b"3\n".to_vec()));
    zip(&entries)
}

fn text(pickle: &mut Vec<u8>, text: &str) {
    pickle.push(b'X');
    pickle.extend((text.len() as u32).to_le_bytes());
    pickle.extend(text.as_bytes());
}

fn number(pickle: &mut Vec<u8>, n: usize) {
    pickle.push(b'J');
    pickle.extend((n as u32).to_le_bytes());
}

/// A zip archive of entries that are stored as they are.
fn zip(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, bytes) in entries {
        let mut about = Vec::new();
        about.extend([20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0]);
        about.extend(crc(bytes).to_le_bytes());
        about.extend((bytes.len() as u32).to_le_bytes());
        about.extend((bytes.len() as u32).to_le_bytes());
        about.extend((name.len() as u16).to_le_bytes());
        about.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&about);
        directory.extend([0; 10]);
        directory.extend((out.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        out.extend(b"PK\x03\x04");
        out.extend(about);
        out.extend(name.as_bytes());
        out.extend(bytes);
    }
    let (start, count) = (out.len() as u32, entries.len() as u16);
    out.extend(&directory);
    out.extend(b"PK\x05\x06\x00\x00\x00\x00");
    out.extend(count.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend((directory.len() as u32).to_le_bytes());
    out.extend(start.to_le_bytes());
    out.extend([0, 0]);
    out
}

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg())
        })
    })
}
