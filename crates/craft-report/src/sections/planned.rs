//! What stages were expected to take, beside what they took.

use craft_core::records::Plan;
use maud::{Markup, html};

use crate::html::{bytes, duration, num};
use crate::run::{Run, StageRecord};

/// Counts of a manifest that hold the most memory that its stage held.
const PEAKS: [&str; 2] = ["peak_memory_bytes", "peak_rss_bytes"];

pub(crate) fn render(run: &Run, plan: &Plan) -> Markup {
    let taken = |stage: &str| run.stages.iter().find(|s| s.manifest.stage == stage);
    html! {
        div.scroll {
            table {
                thead {
                    tr {
                        th { "stage" }
                        @for what in ["time", "memory", "disk"] {
                            th.n { (what) " planned" }
                            th.n { "taken" }
                            th.n { "ratio" }
                        }
                    }
                }
                tbody {
                    @for (stage, planned) in &plan.stages {
                        @let taken = taken(stage);
                        tr {
                            th scope="row" { (stage) }
                            (cells(planned.seconds, taken.map(|s| s.manifest.seconds), duration))
                            (cells(size(planned.memory_bytes), taken.and_then(memory), bytes))
                            (cells(size(planned.disk_bytes), taken.map(disk), bytes))
                        }
                    }
                }
            }
        }
        p.fine {
            "Times are on the clock, over all attempts; memory is the most at a time, with the models; disk is what the stage wrote. "
            "A ratio above 1 took more than was planned."
        }
    }
}

fn size(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64)
}

fn memory(stage: &StageRecord) -> Option<f64> {
    size(PEAKS.iter().find_map(|key| stage.manifest.counts.get(*key).copied()))
}

fn disk(stage: &StageRecord) -> f64 {
    stage.manifest.size().1 as f64
}

fn cells(planned: Option<f64>, taken: Option<f64>, show: fn(f64) -> String) -> Markup {
    let ratio = planned.zip(taken).filter(|(planned, _)| *planned > 0.0).map(|(p, t)| t / p);
    let words =
        |value: Option<f64>, show: fn(f64) -> String| value.map_or_else(|| "–".to_owned(), show);
    html! {
        td.n { (words(planned, show)) }
        td.n { (words(taken, show)) }
        td.n { (words(ratio, num)) }
    }
}
