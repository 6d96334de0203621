//! The report of a run: one HTML page that works from `file://`, offline.
//!
//! [`write_report`] reads a run folder and writes `report/index.html` in it. Small pictures are embedded in the page;
//! where they would make it too heavy they are copied to `report/images/` and referenced relatively. Nothing is
//! fetched from a network, and the page holds no clock and no path of the machine, so the same run folder gives the
//! same bytes.
//!
//! [`picture_grid`] lays RGB pictures out on a sheet, for READMEs and logs.

mod charts;
mod comparison;
mod data;
mod error;
mod funnel;
mod grid;
mod html;
mod images;
mod page;
mod read;
mod rewards;
mod run;
mod sections;
mod stats;
mod svg;
mod verdict;

pub use comparison::write_comparison;
pub use error::ReportError;
pub use grid::{encode_png, picture_grid, picture_grid_png};

use std::path::{Path, PathBuf};

/// What the numbers of a run folder say, as `run.json` holds it under `verdict`: `level` (`good`, `unclear`, `bad`,
/// `unknown`), `headline`, `missing` (what a green verdict would need), `gains` (sizes of changes on held-out rewards)
/// and `sentences`. It is what the report's page says.
///
/// # Errors
/// As [`write_report`].
pub fn verdict(run_dir: &Path) -> Result<serde_json::Value, ReportError> {
    let run = run::Run::load(run_dir)?;
    Ok(verdict::judge(&rewards::Context::new(&run)).json())
}

/// Reads the run folder `run_dir` and writes `report/index.html` (and `report/images/` where pictures are too heavy
/// to embed). Returns the path of the page.
///
/// A part that the run does not have (no random control, no evaluation yet) is shown as "not in this run". Pictures
/// that are missing or torn, a cut last line of `metrics.jsonl` and unreadable `stage.json` files are listed on the
/// page and do not stop it.
///
/// # Errors
/// [`ReportError::NotARunFolder`] when `run_dir` is not a folder, [`ReportError::NothingToReport`] when no stage has
/// written anything yet, [`ReportError::BadLine`] or [`ReportError::BadFile`] when a file that the numbers come from
/// does not parse (with file and line), [`ReportError::Io`] when reading or writing fails.
pub fn write_report(run_dir: &Path) -> Result<PathBuf, ReportError> {
    let run = run::Run::load(run_dir)?;
    let report_dir = run_dir.join("report");
    let mut pictures = images::Pictures::new(run_dir, &report_dir)?;
    let html = page::render(&run, &mut pictures)?;
    let index = report_dir.join("index.html");
    let partial = report_dir.join("index.html.tmp");
    std::fs::write(&partial, html).map_err(|source| ReportError::io(&partial, "write", source))?;
    std::fs::rename(&partial, &index).map_err(|source| ReportError::io(&index, "write", source))?;
    Ok(index)
}
