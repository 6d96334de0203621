//! What stages were expected to take, beside what they took.

use craft_core::records::Plan;
use maud::{Markup, html};

use crate::html::{bytes, duration, num};
use crate::run::{Run, StageRecord};

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
                    @for planned in &plan.stages {
                        @let stage = &planned.stage;
                        @let taken = taken(stage);
                        tr {
                            th scope="row" { (stage) }
                            (cells(planned.seconds, taken.map(|s| s.manifest.seconds), duration))
                            (cells(Some(planned.memory_bytes as f64), taken.and_then(memory), bytes))
                            (cells(Some(planned.disk_bytes as f64), taken.map(disk), bytes))
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

/// The peak of a stage; 0 stands for a system that does not tell.
fn memory(stage: &StageRecord) -> Option<f64> {
    let peak = stage.manifest.peak_rss_bytes;
    (peak > 0).then_some(peak as f64)
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
