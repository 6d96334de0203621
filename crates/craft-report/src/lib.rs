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
mod write;

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
    let run = run::Run::load(run_dir, run::Rows::None)?;
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
/// does not parse (with file and line), [`ReportError::Store`] when reading or writing fails.
pub fn write_report(run_dir: &Path) -> Result<PathBuf, ReportError> {
    page_in(run_dir, &run_dir.join("report"))
}

/// Writes the page of a run into another folder, which must be new or empty. Nothing in the run is changed.
///
/// # Errors
/// Those of [`write_report`], and [`ReportError::NotEmpty`].
pub fn write_report_to(run_dir: &Path, folder: &Path) -> Result<PathBuf, ReportError> {
    let used = craft_store::atomic::list(folder).is_ok_and(|entries| !entries.is_empty());
    if used || folder.is_file() {
        return Err(ReportError::NotEmpty { path: folder.to_owned() });
    }
    page_in(run_dir, folder)
}

fn page_in(run_dir: &Path, folder: &Path) -> Result<PathBuf, ReportError> {
    let run = run::Run::load(run_dir, run::Rows::Shown)?;
    let rows = run.candidates.part.bytes + run.evaluated.bytes;
    let mut pictures = images::Pictures::new(run_dir, folder, rows as u64)?;
    let html = page::render(&run, &mut pictures)?;
    let index = folder.join("index.html");
    write::file(&index, html.as_bytes())?;
    Ok(index)
}
