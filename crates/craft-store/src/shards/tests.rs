use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::*;
use crate::error::StoreError;
use crate::image::{RgbImage, encode_png};

fn picture(i: usize) -> RgbImage {
    let data = (0..8 * 6 * 3).map(|j| (i * 31 + j * 7) as u8).collect();
    RgbImage::new(8, 6, data).unwrap()
}

fn png(i: usize) -> Vec<u8> {
    encode_png(&picture(i), Some(&format!("picture {i}"))).unwrap()
}

fn id(i: usize) -> String {
    format!("p{:05}-v{:02}-s0", i / 3, i % 3)
}

const COUNT: usize = 10;
const SIZE: usize = 4;

/// Writes what is not there yet, at most `most` pictures; how many it wrote.
fn write(folder: &Path, layout: Layout, most: usize) -> usize {
    let writer = PictureWriter::open(folder, layout, COUNT).unwrap();
    let mut written = 0;
    for i in 0..COUNT {
        if !writer.has(i, &id(i)).unwrap() {
            if written == most {
                return written;
            }
            writer.put(i, &id(i), &png(i)).unwrap();
            written += 1;
        }
    }
    writer.sync().unwrap();
    writer.finish().unwrap();
    written
}

/// Names and bytes of all files below a folder.
fn bytes_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = crate::hash::files_below(folder).unwrap();
    names.into_iter().map(|n| (n.clone(), fs::read(folder.join(n)).unwrap())).collect()
}

#[test]
fn both_layouts_are_read_by_one_interface() {
    let dir = tempfile::tempdir().unwrap();
    for (name, layout) in [("files", Layout::Files), ("shards", Layout::Shards(SIZE))] {
        let folder = dir.path().join(name);
        assert_eq!(write(&folder, layout, COUNT), COUNT);
        assert_eq!(write(&folder, layout, COUNT), 0, "nothing is written twice");
        let store = PictureStore::open(&folder).unwrap();
        assert_eq!(store.is_sharded(), name == "shards");
        for i in (0..COUNT).rev() {
            assert!(store.exists(&id(i)));
            assert_eq!(store.read(&id(i)).unwrap(), picture(i));
            assert_eq!(store.bytes(&id(i)).unwrap(), png(i));
        }
        assert!(!store.exists("p9"));
        let message = store.read("p9").unwrap_err().to_string();
        assert!(message.contains("p9.png"), "{message}");
        let mut all = Vec::new();
        store
            .each::<StoreError>(|id, bytes| {
                all.push((id.to_owned(), bytes));
                Ok(())
            })
            .unwrap();
        assert_eq!(all, (0..COUNT).map(|i| (id(i), png(i))).collect::<Vec<_>>());
    }
    let names: Vec<String> = bytes_below(&dir.path().join("shards")).into_keys().collect();
    assert_eq!(names, [0, 1, 2].map(|n| format!("000/shard-{n:06}.tar")));
    assert_eq!(Layout::of(5, 4), Layout::Shards(4));
    assert_eq!((Layout::of(4, 4), Layout::of(5, 0)), (Layout::Files, Layout::Files));
}

/// The unfinished shard is cut at any byte, as a kill or a power cut may leave it: whole pictures stay,
/// and in the end there are the bytes of an uninterrupted attempt.
#[test]
fn a_shard_cut_at_any_byte_goes_on_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    write(&whole, Layout::Shards(SIZE), COUNT);
    let expected = bytes_below(&whole);
    let begun = dir.path().join("begun");
    assert_eq!(write(&begun, Layout::Shards(SIZE), SIZE + 3), SIZE + 3);
    let partial = "000/.shard-000001.tar.partial";
    let bytes = fs::read(begun.join(partial)).unwrap();
    let folder = dir.path().join("cut");
    fs::create_dir_all(folder.join("000")).unwrap();
    let starts: Vec<usize> =
        (0..3).map(|i| png(SIZE + i).len().next_multiple_of(512) + 512).collect();
    for cut in (0..=bytes.len()).step_by(61).chain([bytes.len()]) {
        fs::copy(begun.join("000/shard-000000.tar"), folder.join("000/shard-000000.tar")).unwrap();
        fs::write(folder.join(partial), &bytes[..cut]).unwrap();
        // After a power cut the file may have its length and not all of its content.
        if cut % 2 == 0 {
            let file = fs::File::options().write(true).open(folder.join(partial)).unwrap();
            file.set_len(bytes.len() as u64 + 700).unwrap();
        }
        let mut end = 0;
        let kept = starts.iter().take_while(|n| {
            end += **n;
            // A picture ends before its filling, which is zeros either way.
            cut >= end
                || (cut % 2 == 0 && cut + 512 > end && whole_without_filling(&bytes, end, cut))
        });
        let kept = kept.count();
        assert_eq!(
            write(&folder, Layout::Shards(SIZE), COUNT),
            COUNT - SIZE - kept,
            "cut at {cut}"
        );
        assert!(bytes_below(&folder) == expected, "cut at {cut}");
        fs::remove_file(folder.join("000/shard-000002.tar")).unwrap();
        fs::remove_file(folder.join("000/shard-000001.tar")).unwrap();
    }
}

/// Whether all between a cut and the end of a member is zeros.
fn whole_without_filling(bytes: &[u8], end: usize, cut: usize) -> bool {
    bytes[cut..end].iter().all(|byte| *byte == 0)
}

#[test]
fn the_order_of_writing_does_not_show_and_a_shard_is_complete_or_hidden() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    write(&a, Layout::Shards(SIZE), COUNT);
    let writer = PictureWriter::open(&b, Layout::Shards(SIZE), COUNT).unwrap();
    for i in [7, 1, 0, 3] {
        writer.put(i, &id(i), &png(i)).unwrap();
    }
    assert!(bytes_below(&b).is_empty(), "no shard is complete");
    assert!(writer.put(1, &id(1), &png(1)).unwrap_err().to_string().contains("each once"));
    assert!(writer.put(COUNT, "x", &png(0)).is_err());
    assert!(writer.put(2, "a.b", &png(0)).unwrap_err().to_string().contains("a.b"));
    let message = PictureWriter::open(&b, Layout::Shards(SIZE), COUNT).unwrap().finish();
    assert!(
        message.unwrap_err().to_string().contains("shard-000000.tar: the shard is not complete")
    );
    std::thread::scope(|scope| {
        for i in [2, 4, 5, 6, 8, 9] {
            let writer = &writer;
            scope.spawn(move || writer.put(i, &id(i), &png(i)).unwrap());
        }
    });
    writer.finish().unwrap();
    assert!(bytes_below(&a) == bytes_below(&b));
}

#[test]
fn damaged_shards_are_named_with_member_and_cure() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    write(folder, Layout::Shards(SIZE), COUNT);
    let path = path(folder, 1, "tar");
    let whole = fs::read(&path).unwrap();
    let first = png(SIZE).len();
    let second = 512 + first.next_multiple_of(512);
    let open = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        PictureStore::open(folder)
    };
    // A flipped bit in a picture: found when it is read, others are read all the same.
    let mut bytes = whole.clone();
    bytes[512 + first / 2] ^= 4;
    let store = open(&bytes).unwrap();
    assert_eq!(store.read(&id(SIZE + 1)).unwrap(), picture(SIZE + 1));
    let message = store.read(&id(SIZE)).unwrap_err().to_string();
    assert!(message.contains(&format!("shard-000001.tar: member {}.png: ", id(SIZE))), "{message}");
    // In a header, and a file that is cut short.
    let mut bytes = whole.clone();
    bytes[second + 3] ^= 4;
    for (bytes, word) in
        [(&bytes[..], "after member"), (&whole[..second + 600], "ends after the end of the file")]
    {
        let message = open(bytes).unwrap_err().to_string();
        for word in [word, "shard-000001.tar", "the shard is damaged", "put the shard back"] {
            assert!(message.contains(word), "{message}");
        }
    }
    for cut in (0..whole.len()).step_by(97) {
        assert!(open(&whole[..cut]).is_err(), "{cut}");
    }
    // The same picture in two shards, and a shard that is missing.
    fs::copy(super::path(folder, 0, "tar"), &path).unwrap();
    assert!(PictureStore::open(folder).unwrap_err().to_string().contains("each once"));
    fs::remove_file(&path).unwrap();
    let message = PictureStore::open(folder).unwrap_err().to_string();
    assert!(message.contains("shard-000001.tar: this shard is missing"), "{message}");
}

#[test]
fn a_finished_shard_that_was_damaged_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), Layout::Shards(SIZE), COUNT);
    let expected = bytes_below(dir.path());
    let path = path(dir.path(), 1, "tar");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let written = write(dir.path(), Layout::Shards(SIZE), COUNT);
    assert!((1..=SIZE).contains(&written), "{written}");
    assert!(bytes_below(dir.path()) == expected);
}

#[test]
fn latents_in_either_layout_are_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let row = |i: usize| -> Vec<f32> { (0..6).map(|j| (10 * i + j) as f32 + 0.5).collect() };
    let fill = |target: &Path, layout, rows: std::ops::Range<usize>| {
        let mut writer = RowsWriter::open(target, "latents", &[COUNT, 2, 3], layout).unwrap();
        let mut written = 0;
        for i in rows {
            if !writer.has(i).unwrap() {
                writer.put(i, &row(i)).unwrap();
                written += 1;
            }
        }
        writer.sync().unwrap();
        (writer.finish(), written)
    };
    for (name, layout) in [("files", Layout::Files), ("shards", Layout::Shards(SIZE))] {
        let target = dir.path().join(name).join("latents.safetensors");
        fs::create_dir(target.parent().unwrap()).unwrap();
        let (finished, written) = fill(&target, layout, 0..6);
        assert_eq!((finished.is_err(), written), (true, 6));
        assert_eq!(RowStore::open(&target, "latents").is_ok(), name == "shards");
        let (finished, written) = fill(&target, layout, 0..COUNT);
        assert_eq!((finished.is_ok(), written), (true, COUNT - 6));
        let mut store = RowStore::open(&target, "latents").unwrap();
        for i in [9, 0, 4, 3, 8, 7] {
            assert_eq!(store.read(i).unwrap(), row(i), "{name} {i}");
        }
        assert!(store.read(COUNT).is_err() && store.read(99).is_err());
        assert_eq!(target.exists(), name == "files");
    }
    let shard = path(&dir.path().join("shards/latents"), 2, "safetensors");
    let mut bytes = fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let target = dir.path().join("shards/latents.safetensors");
    let mut store = RowStore::open(&target, "latents").unwrap();
    assert_eq!(store.read(8).unwrap(), row(8));
    let message = store.read(9).unwrap_err().to_string();
    assert!(message.contains("shard-000002.safetensors: tensor `latents`, row 1"), "{message}");
    // Only the damaged row is written again.
    assert_eq!(fill(&target, Layout::Shards(SIZE), 0..COUNT).1, 1);
    assert_eq!(RowStore::open(&target, "latents").unwrap().read(9).unwrap(), row(9));
}
