//! When outputs were last changed, `.stage-times`: what tells without reading them that they are whole.
//!
//! The first line is the digest of the manifest that the times belong to, then there is a line for each
//! output, in the manifest's order: nanoseconds since 1970, or `-` where the system has no times. A
//! file that is missing, torn or of another manifest says nothing, and the outputs are hashed.

use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::time::UNIX_EPOCH;

use super::{Output, ProblemKind};
use crate::atomic::AtomicFile;
use crate::error::Result;
use crate::input;

/// Name of the file in the folder of a stage.
pub(crate) const TIMES_FILE: &str = ".stage-times";

/// When a file was last changed, in nanoseconds since 1970; `None` where the system does not say.
pub(super) fn time(meta: &fs::Metadata) -> Option<u128> {
    meta.modified().ok()?.duration_since(UNIX_EPOCH).ok().map(|time| time.as_nanos())
}

/// When an output of the recorded length was last changed; otherwise what is wrong with it.
pub(super) fn look(path: &Path, output: &Output) -> std::result::Result<Option<u128>, ProblemKind> {
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() == output.bytes => Ok(time(&meta)),
        Ok(meta) if meta.is_file() => {
            Err(ProblemKind::Length { found: meta.len(), expected: output.bytes })
        }
        Ok(_) => Err(ProblemKind::Unreadable("it is no file any more".to_owned())),
        Err(_) => Err(ProblemKind::Missing),
    }
}

/// Times that are read one by one.
#[derive(Debug, Default)]
pub(super) struct Known(Option<Lines<BufReader<fs::File>>>);

impl Known {
    /// The time of the next output.
    pub(super) fn take(&mut self) -> Option<u128> {
        self.0.as_mut()?.next()?.ok()?.parse().ok()
    }
}

/// Times that are going to be written.
#[derive(Debug)]
pub(crate) struct Times(String);

impl Times {
    /// The times that are written down for a manifest.
    pub(super) fn read(dir: &Path, digest: &str) -> Known {
        let Ok(file) = input::open(&dir.join(TIMES_FILE)) else { return Known::default() };
        let mut lines = BufReader::new(file).lines();
        let same = lines.next().is_some_and(|line| line.is_ok_and(|line| line == digest));
        Known(same.then_some(lines))
    }

    /// None yet, for a manifest.
    pub(crate) fn new(digest: &str) -> Self {
        Self(format!("{digest}\n"))
    }

    /// Adds the time of the next output.
    pub(crate) fn push(&mut self, time: Option<u128>) {
        match time {
            Some(time) => self.0 += &time.to_string(),
            None => self.0.push('-'),
        }
        self.0.push('\n');
    }

    /// Writes them down.
    pub(crate) fn write(&self, dir: &Path) -> Result<()> {
        let mut file = AtomicFile::create(&dir.join(TIMES_FILE))?;
        file.put(self.0.as_bytes())?;
        file.commit()
    }
}
