//! Tables whose first line names their columns.

use super::{CATEGORY, Collector, Place, PromptFileError, TEXT, column, listed};

/// A record with the line at which it begins.
type Record = (u64, Vec<String>);

/// Fields separated by commas, or by what the first line is separated by, with quotes.
pub(super) fn csv(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    let head = text.split('\n').next().unwrap_or_default();
    let names_prompts = |delimiter: &u8| {
        let names = records(head, *delimiter).into_iter().next().unwrap_or_default().1;
        column(&TEXT, &names).is_some()
    };
    let delimiter = [b',', b';', b'\t', b'|'].into_iter().find(names_prompts).unwrap_or(b',');
    rows(records(text, delimiter), into)
}

/// Fields separated by tabs. Published tables have quotes that mean nothing (PartiPrompts); those of a program
/// that quotes are told by their counts of fields.
pub(super) fn tsv(text: &str, into: &mut Collector) -> Result<(), PromptFileError> {
    let fields = text.lines().next().map_or(0, |line| line.split('\t').count());
    let even = text.lines().filter(|l| !l.is_empty()).all(|l| l.split('\t').count() == fields);
    if text.starts_with('"') || !even {
        let quoted = records(text, b'\t');
        if quoted.iter().all(|(_, record)| record.len() == fields) {
            return rows(quoted, into);
        }
    }
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap_or("").split('\t').map(str::trim).collect();
    let texts =
        column(&TEXT, &names).ok_or_else(|| PromptFileError::NoColumn { found: listed(&names) })?;
    let categories = column(&CATEGORY, &names);
    for (i, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split('\t').collect();
        let category = categories.and_then(|c| cells.get(c)).map(|c| (*c).to_owned());
        into.add(
            Place::line(i + 2),
            present(&unquoted(cells.get(texts).unwrap_or(&""))),
            category,
        )?;
    }
    Ok(())
}

/// A cell in quotes with its inner quotes doubled, as it was before a program quoted it.
fn unquoted(cell: &str) -> String {
    let inner = cell.trim().strip_prefix('"').and_then(|c| c.strip_suffix('"'));
    match inner {
        Some(inner) if inner.contains("\"\"") && !inner.replace("\"\"", "").contains('"') => {
            inner.replace("\"\"", "\"")
        }
        _ => cell.to_owned(),
    }
}

/// A cell's text; nothing where a program wrote that it has none.
fn present(cell: &str) -> &str {
    if ["NaN", "nan"].contains(&cell.trim()) { "" } else { cell }
}

fn rows(records: Vec<Record>, into: &mut Collector) -> Result<(), PromptFileError> {
    let mut records = records.into_iter();
    let names = records.next().map(|(_, names)| names).unwrap_or_default();
    let texts =
        column(&TEXT, &names).ok_or_else(|| PromptFileError::NoColumn { found: listed(&names) })?;
    let categories = column(&CATEGORY, &names);
    for (line, mut record) in records {
        if record.len() != names.len() {
            let (found, expected) = (record.len(), names.len());
            return Err(PromptFileError::Csv { line, found, expected });
        }
        let category = categories.map(|c| std::mem::take(&mut record[c]));
        into.add(Place::line(line as usize), present(&record[texts]), category)?;
    }
    Ok(())
}

/// The records of a table. Empty lines are none.
fn records(text: &str, delimiter: u8) -> Vec<Record> {
    let mut reader = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    let mut input = text.as_bytes();
    // No record is longer than the file, so it always fits.
    let (mut bytes, mut ends) = (vec![0; text.len() + 1], vec![0; text.len() + 2]);
    let (mut written, mut fields, mut line) = (0, 0, 1);
    let mut records = Vec::new();
    loop {
        let (result, read, wrote, ended) =
            reader.read_record(input, &mut bytes[written..], &mut ends[fields..]);
        input = &input[read..];
        (written, fields) = (written + wrote, fields + ended);
        match result {
            csv_core::ReadRecordResult::Record => {
                let starts = std::iter::once(0).chain(ends[..fields].iter().copied());
                let spans = starts.zip(&ends[..fields]);
                let field = |(from, to): (usize, &usize)| {
                    String::from_utf8_lossy(&bytes[from..*to]).into_owned()
                };
                records.push((line, spans.map(field).collect()));
                (written, fields, line) = (0, 0, reader.line());
            }
            csv_core::ReadRecordResult::InputEmpty => {}
            _ => return records,
        }
    }
}
