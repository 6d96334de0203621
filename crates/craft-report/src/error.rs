//! What can stop a report.

use std::path::PathBuf;

/// Why a report, or a picture grid, could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The path is missing or is not a folder.
    #[error("`{}` is not a run folder: expected a folder that `craft run` or `craft demo` wrote", path.display())]
    NotARunFolder {
        /// The path that was given.
        path: PathBuf,
    },
    /// The folder holds none of the files a report is made from.
    #[error(
        "nothing to report in `{}`: expected at least one of candidates/candidates.jsonl, evaluation/evaluation.json \
         and metrics.jsonl; run `craft run` on it until a stage is finished",
        path.display()
    )]
    NothingToReport {
        /// The run folder.
        path: PathBuf,
    },
    /// One line of a JSON lines file does not parse.
    #[error("`{}` line {line}: {message}; delete the stage's folder and run the stage again", path.display())]
    BadLine {
        /// The file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What the parser expected.
        message: String,
    },
    /// A JSON file does not parse.
    #[error("`{}`: {message}; delete the stage's folder and run the stage again", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What the parser expected, with line and column.
        message: String,
    },
    /// A part of the report's folder is a link.
    #[error(
        "`{}` is a link, and what a report replaces there would not be its own: expected a folder of the run itself; \
         remove the link",
        path.display()
    )]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// The folder that was given for a page holds something.
    #[error(
        "`{}` is not empty: expected an empty folder or the name of a new one for the page and its pictures",
        path.display()
    )]
    NotEmpty {
        /// The folder.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error(transparent)]
    Store(#[from] craft_store::StoreError),
    /// A picture handed to the grid does not have width × height × 3 bytes.
    #[error("picture {index} has {actual} bytes; expected {expected} (width × height × 3, RGB)")]
    PictureSize {
        /// Index in the list.
        index: usize,
        /// Bytes expected.
        expected: usize,
        /// Bytes given.
        actual: usize,
    },
    /// A sheet could not be encoded as PNG.
    #[error("cannot encode a {width}×{height} picture as PNG: {message}")]
    Png {
        /// Width in pixels.
        width: usize,
        /// Height in pixels.
        height: usize,
        /// What the encoder said.
        message: String,
    },
}
