//! What is printed, and where: results to standard output, the rest to standard error without tearing
//! a progress bar apart.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::sync::LazyLock;

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// All progress bars of the process.
pub(crate) fn bars() -> &'static MultiProgress {
    &BARS
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Warnings and errors.
    Quiet,
    /// Progress and notes.
    Normal,
    /// Details.
    Verbose,
    /// Everything.
    All,
}

impl Level {
    /// From `-v` and `-q`.
    pub(crate) fn new(verbose: u8, quiet: bool) -> Self {
        match (quiet, verbose) {
            (true, _) => Self::Quiet,
            (false, 0) => Self::Normal,
            (false, 1) => Self::Verbose,
            (false, _) => Self::All,
        }
    }

    fn filter(self) -> &'static str {
        match self {
            Self::Quiet => "warn",
            Self::Normal => "info",
            Self::Verbose => "debug",
            Self::All => "trace",
        }
    }
}

/// Longest line on standard error, in characters: what it quotes of a file may be a whole file.
const MOST: usize = 4000;
/// How much of a longer one is shown at its end, where what was expected and the cure stand.
const END: usize = 1000;

/// A text without its middle, if it is too long.
fn shortened(text: &str) -> Cow<'_, str> {
    let count = text.chars().count();
    if count <= MOST {
        return text.into();
    }
    let head: String = text.chars().take(MOST - END).collect();
    let tail: String = text.chars().skip(count - END).collect();
    format!("{head} … ({} characters are left out here) … {tail}", count - MOST).into()
}

/// A line on standard error. A closed pipe is no reason to stop.
pub(crate) fn line(text: &str) {
    BARS.suspend(|| {
        let _ = writeln!(io::stderr().lock(), "{}", shortened(text));
    });
}

/// A line on standard output. When nobody reads it any more (`craft … | head`) the process ends.
pub(crate) fn result(text: &str) -> anyhow::Result<()> {
    let written = BARS.suspend(|| {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush())
    });
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

struct Writer;

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        BARS.suspend(|| {
            let _ = io::stderr().lock().write_all(bytes);
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Make;

impl<'a> MakeWriter<'a> for Make {
    type Writer = io::LineWriter<Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        io::LineWriter::new(Writer)
    }
}

/// Sends log lines of all crates to standard error. `RUST_LOG` overrides the level.
pub(crate) fn start_logging(level: Level) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level.filter()));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Make)
        .with_ansi(io::stderr().is_terminal())
        .with_target(level == Level::All)
        .without_time()
        .try_init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endless_lines_keep_their_ends() {
        assert_eq!(shortened("short"), "short");
        let text = format!("a.json: {}: expected one, mend it", "é".repeat(1_000_000));
        let short = shortened(&text);
        assert!(short.starts_with("a.json: é") && short.ends_with("expected one, mend it"));
        assert!(
            short.contains("characters are left out here") && short.chars().count() < MOST + 60
        );
    }
}
