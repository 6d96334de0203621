use std::fs;

use super::*;
use serde::Deserialize;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    id: String,
    x: f64,
}

fn some(n: usize) -> Vec<Row> {
    (0..n).map(|i| Row { id: format!("ä{i}"), x: i as f64 / 3.0 }).collect()
}

#[test]
fn rows_round_trip() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    write(&path, some(5)).unwrap();
    assert_eq!(read::<Row>(&path).unwrap(), some(5));
    let mut appender = Appender::open(&path).unwrap();
    appender.append(&Row { id: "last".into(), x: 1e-300 }).unwrap();
    appender.sync().unwrap();
    assert_eq!(read::<Row>(&path).unwrap().len(), 6);
}

/// A file cut at any byte keeps its whole rows and can be appended to.
#[test]
fn a_torn_last_line_is_cut_off_wherever_it_tears() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    write(&path, some(3)).unwrap();
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let resumed = read_resumable::<Row>(&path).unwrap();
        let kept = resumed.rows.len();
        assert_eq!(resumed.rows, some(3)[..kept]);
        let complete = whole[..cut].iter().filter(|b| **b == b'\n').count();
        assert!(kept == complete || kept == complete + 1);
        if let Some(torn) = &resumed.torn {
            assert_eq!((torn.line, kept), (complete + 1, complete));
        }
        let mut appender = Appender::open(&path).unwrap();
        for row in &some(3)[kept..] {
            appender.append(row).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
    assert_eq!(read_resumable::<Row>(&dir.path().join("no")).unwrap().rows, []);
}

#[test]
fn bad_lines_have_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    fs::write(
        &path,
        "\u{feff}{\"id\":\"a\",\"x\":1}\r\n\n{\"id\":\"a\"}\n{\"id\":\"b\",\"x\":2}\n",
    )
    .unwrap();
    let error = read::<Row>(&path).unwrap_err();
    assert!(error.is_bad_input());
    let message = error.to_string();
    assert!(message.contains("a.jsonl, line 3: missing field `x`"), "{message}");
    assert!(read_resumable::<Row>(&path).is_err());
    let message = read::<Row>(&dir.path().join("no.jsonl")).unwrap_err().to_string();
    assert!(message.contains("no.jsonl"), "{message}");
}

#[test]
fn rows_come_one_by_one_and_stop_at_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.jsonl");
    let mut writer = Writer::create(&path).unwrap();
    for row in some(4) {
        writer.put(&row).unwrap();
    }
    assert!(!path.exists());
    writer.commit().unwrap();
    let mut found = rows::<Row>(&path).unwrap();
    assert_eq!(found.next().unwrap().unwrap(), some(4)[0]);
    assert_eq!((found.line(), found.by_ref().count()), (1, 3));
    assert!(found.next().is_none());
    fs::write(&path, "{\"id\":\"a\",\"x\":1}\n\n  \nno\n{\"id\":\"a\",\"x\":1}").unwrap();
    let mut found = rows::<Row>(&path).unwrap();
    assert!(found.next().unwrap().is_ok());
    let message = found.next().unwrap().unwrap_err().to_string();
    assert!(message.contains("a.jsonl, line 4: expected ident"), "{message}");
    assert!(found.next().is_none());
    assert!(rows::<Row>(dir.path()).is_err());
}
