//! Prompts of a parquet file: the column of prompts, and that of their categories. Other columns, which may
//! hold pictures, are not read, and a column is read page by page.

use std::path::Path;

use craft_core::prompt_file::Collector;

/// Reads the prompts of a parquet file.
///
/// # Errors
/// When the file is damaged, has no column of prompts or one that is read otherwise.
#[cfg(not(feature = "parquet"))]
pub(crate) fn read(_: &Path, _: &mut Collector) -> Result<(), String> {
    Err("this is a parquet file, which this program was built without; build it with `--features parquet`, or save the prompts as .jsonl"
        .to_owned())
}

#[cfg(feature = "parquet")]
pub(crate) use with_parquet::read;

#[cfg(feature = "parquet")]
mod with_parquet {
    use super::*;
    use craft_core::prompt_file::{CATEGORY, Place, TEXT, column, listed};
    use craft_store::input;
    use parquet::basic::{Compression, Type};
    use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
    use parquet::data_type::{ByteArray, ByteArrayType};
    use parquet::errors::ParquetError;
    use parquet::file::reader::{FileReader, RowGroupReader, SerializedFileReader};
    use parquet::schema::types::SchemaDescriptor;

    /// Rows that are in memory at a time.
    const BATCH: usize = 1024;

    fn damaged(error: ParquetError) -> String {
        format!(
            "the parquet file cannot be read ({error}); it is damaged or not whole: download it again"
        )
    }

    pub(crate) fn read(path: &Path, into: &mut Collector) -> Result<(), String> {
        let reader = SerializedFileReader::new(input::open(path).map_err(|e| e.without_path())?)
            .map_err(damaged)?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let texts = prompts(&schema)?;
        let categories = texts_of(&schema, &CATEGORY).ok().flatten();
        let mut row = 0;
        for group in 0..reader.num_row_groups() {
            let group = reader.get_row_group(group).map_err(damaged)?;
            let mut texts = Column::open(&*group, texts)?;
            let mut categories = categories.map(|c| Column::open(&*group, c)).transpose()?;
            loop {
                let batch = texts.batch()?;
                if batch.is_empty() {
                    break;
                }
                let mut groups = match &mut categories {
                    Some(column) => column.batch()?.into_iter(),
                    None => Vec::new().into_iter(),
                };
                for text in batch {
                    row += 1;
                    let text = text.as_ref().map_or(Ok(""), |t| t.as_utf8());
                    let text = text.map_err(|_| {
                        format!("the prompt of row {row} is not UTF-8: expected a column of texts")
                    })?;
                    let category = groups.next().flatten();
                    let category = category.and_then(|c| c.as_utf8().ok().map(str::to_owned));
                    into.add(Place::row(row), text, category).map_err(|e| e.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// The place of the column of prompts.
    fn prompts(schema: &SchemaDescriptor) -> Result<usize, String> {
        if let Some(found) = texts_of(schema, &TEXT)? {
            return Ok(found);
        }
        let names: Vec<&str> = schema.root_schema().get_fields().iter().map(|f| f.name()).collect();
        match column(&TEXT, &names) {
            Some(place) => Err(format!(
                "the column {} holds lists or records, and one text a row is read: save its texts as a column of their own",
                listed(&[names[place]])
            )),
            None => Err(format!(
                "no column is named prompt, text or caption; the file has {}: rename the column of prompts",
                listed(&names)
            )),
        }
    }

    /// The place of the first column of texts of these names.
    fn texts_of(schema: &SchemaDescriptor, wanted: &[&str]) -> Result<Option<usize>, String> {
        let names: Vec<String> = schema.columns().iter().map(|c| c.path().string()).collect();
        let Some(place) = column(wanted, &names) else { return Ok(None) };
        let found = schema.column(place);
        if found.max_rep_level() > 0 {
            return Ok(None);
        }
        match found.physical_type() {
            Type::BYTE_ARRAY => Ok(Some(place)),
            other => Err(format!(
                "the column {} is of the type {other}: expected texts",
                listed(&[found.name()])
            )),
        }
    }

    /// A column of one group of rows.
    struct Column {
        reader: ColumnReaderImpl<ByteArrayType>,
        /// The level at which a value is there.
        level: i16,
    }

    impl Column {
        fn open(group: &dyn RowGroupReader, place: usize) -> Result<Self, String> {
            let meta = group.metadata().column(place);
            if let Compression::LZO | Compression::BROTLI(_) = meta.compression() {
                return Err(format!(
                    "the column {} is packed by {}; snappy, gzip, lz4 and zstd are read: save it with one of them",
                    listed(&[meta.column_descr().name()]),
                    meta.compression()
                ));
            }
            let level = meta.column_descr().max_def_level();
            match group.get_column_reader(place).map_err(damaged)? {
                ColumnReader::ByteArrayColumnReader(reader) => Ok(Self { reader, level }),
                _ => Err("the column of prompts holds no texts".to_owned()),
            }
        }

        /// The next rows; none at the end.
        fn batch(&mut self) -> Result<Vec<Option<ByteArray>>, String> {
            let (mut levels, mut values) = (Vec::new(), Vec::new());
            let read = self.reader.read_records(BATCH, Some(&mut levels), None, &mut values);
            let (rows, ..) = read.map_err(damaged)?;
            let mut values = values.into_iter();
            let present = |row: usize| self.level == 0 || levels.get(row) == Some(&self.level);
            Ok((0..rows).map(|row| if present(row) { values.next() } else { None }).collect())
        }
    }
}
