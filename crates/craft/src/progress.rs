//! Progress of long work: a bar on a terminal, plain lines elsewhere, nothing with `-q`.

use std::fmt::Write;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use craft_core::Progress;
use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use crate::console::{self, Level};
use crate::interrupt;

/// Time between plain lines.
const EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Quiet,
    Lines,
    Bars,
}

/// Shows the progress of one piece of work after the other.
#[derive(Debug)]
pub(crate) struct Reporter {
    mode: Mode,
    work: Mutex<Option<Work>>,
}

#[derive(Debug)]
struct Work {
    name: String,
    unit: String,
    total: u64,
    done: u64,
    started: Instant,
    told: Instant,
    bar: Option<ProgressBar>,
}

impl Reporter {
    /// The reporter that fits the level and the terminal.
    pub(crate) fn new(level: Level) -> Self {
        let mode = match level {
            Level::Quiet => Mode::Quiet,
            _ if std::io::stderr().is_terminal() => Mode::Bars,
            _ => Mode::Lines,
        };
        Self { mode, work: Mutex::new(None) }
    }

    fn work(&self) -> MutexGuard<'_, Option<Work>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Reporter {
    fn start(&self, stage: &str, total: u64, unit: &str) {
        if self.mode == Mode::Quiet {
            return;
        }
        let now = Instant::now();
        let bar = (self.mode == Mode::Bars).then(|| bar(stage, total, unit));
        if self.mode == Mode::Lines {
            console::line(&if total > 0 {
                format!("{stage}: {total} {unit}")
            } else {
                format!("{stage}: started")
            });
        }
        let work = Work {
            name: stage.to_owned(),
            unit: unit.to_owned(),
            total,
            done: 0,
            started: now,
            told: now,
            bar,
        };
        if let Some(bar) = self.work().replace(work).and_then(|old| old.bar) {
            bar.finish_and_clear();
        }
    }

    fn advance(&self, n: u64) {
        let mut guard = self.work();
        let Some(work) = guard.as_mut() else { return };
        work.done += n;
        if let Some(bar) = &work.bar {
            bar.inc(n);
        } else if work.told.elapsed() >= EVERY {
            work.told = Instant::now();
            console::line(&plain(work, work.started.elapsed().as_secs_f64()));
        }
    }

    fn finish(&self, message: &str) {
        if self.mode == Mode::Quiet {
            return;
        }
        if let Some(bar) = self.work().take().and_then(|work| work.bar) {
            bar.finish_and_clear();
        }
        console::line(message);
    }

    fn note(&self, message: &str) {
        if self.mode != Mode::Quiet {
            console::line(message);
        }
    }

    fn stopped(&self) -> bool {
        interrupt::asked()
    }
}

fn bar(stage: &str, total: u64, unit: &str) -> ProgressBar {
    let (bar, template) = if total > 0 {
        let template = "{prefix:>9} [{bar:32}] {pos}/{len} {msg}, {rate}, {eta} left";
        (ProgressBar::new(total), template)
    } else {
        (ProgressBar::new_spinner(), "{prefix:>9} {spinner} {pos} {msg}, {elapsed}")
    };
    let style =
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let style = style.with_key("rate", |state: &ProgressState, out: &mut dyn Write| {
        let _ = write!(out, "{:.1}/s", state.per_sec());
    });
    let bar = console::bars().add(bar.with_style(style.progress_chars("=> ")));
    bar.set_prefix(stage.to_owned());
    bar.set_message(unit.to_owned());
    bar.enable_steady_tick(Duration::from_millis(250));
    bar
}

/// `generate: 320/1600 images (20 %), 12.3 images/s, 1 min 44 s left`
fn plain(work: &Work, seconds: f64) -> String {
    let Work { name, unit, total, done, .. } = work;
    let rate = *done as f64 / seconds.max(1e-9);
    if *total == 0 || *done == 0 {
        return format!("{name}: {done} {unit}, {rate:.1} {unit}/s");
    }
    let percent = 100 * done / total;
    let left = span(total.saturating_sub(*done) as f64 / rate);
    format!("{name}: {done}/{total} {unit} ({percent} %), {rate:.1} {unit}/s, {left} left")
}

/// A time span in the two largest units that matter.
pub(crate) fn span(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let s = seconds.round() as u64;
    match (s / 3600, s / 60 % 60, s % 60) {
        (0, 0, s) => format!("{s} s"),
        (0, m, s) => format!("{m} min {s} s"),
        (h, m, _) => format!("{h} h {m} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_rate_and_time_left() {
        let now = Instant::now();
        let work = Work {
            name: "generate".to_owned(),
            unit: "images".to_owned(),
            total: 1600,
            done: 400,
            started: now,
            told: now,
            bar: None,
        };
        assert_eq!(
            plain(&work, 40.0),
            "generate: 400/1600 images (25 %), 10.0 images/s, 2 min 0 s left"
        );
    }

    #[test]
    fn spans_read_well() {
        assert_eq!(span(0.24), "0.2 s");
        assert_eq!(span(59.6), "1 min 0 s");
        assert_eq!(span(3725.0), "1 h 2 min");
    }
}
