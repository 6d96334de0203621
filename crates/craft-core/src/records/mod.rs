//! The rows and documents of a run folder that more than one part of the program reads, one file a
//! family. `docs/run-folder.md` describes them and the other files.
//!
//! A key without `Option` must be there: a file that lacks it does not parse, and the error names the
//! key. `Option` is a key that may be null or missing.

mod evaluation;
mod plan;
mod run;
mod sweep;
mod training;

pub use evaluation::{Change, Evaluation, Fact, Lead, Sample, Three};
pub use plan::{Plan, Planned};
pub use run::{Origin, RunSummary};
pub use sweep::{Strength, Strengths, Sweep};
pub use training::{Look, Metric, PictureStatistics};

pub use crate::prompt::{Candidate, CandidateId, Prompt, PromptId, Split, Wording};
pub use crate::reward::{Missing, ScoreRow};
pub use crate::select::{ControlRow, Funnel, SelectionRow, Shortfall};

#[cfg(test)]
mod tests {
    use super::*;

    /// The message of a line that is refused.
    fn refused<T: serde::de::DeserializeOwned + std::fmt::Debug>(line: &str) -> String {
        serde_json::from_str::<T>(line).expect_err(line).to_string()
    }

    #[test]
    fn a_missing_key_is_named() {
        let text = refused::<Metric>(r#"{"run":"craft","step":1,"grad_norm":1,"lr":1,"nimg":1}"#);
        assert!(text.contains("missing field `loss`"), "{text}");
        let text = refused::<Sample>(r#"{"prompt_id":"p1","text":"a","sample":0,"model":"base"}"#);
        assert!(text.contains("missing field `image`"), "{text}");
        let text = refused::<Evaluation>(r#"{"rewards":{"a":{"base":1.0}}}"#);
        assert!(text.contains("missing field `tuned`"), "{text}");
        let text = refused::<Look>(r#"{"step":1,"statistics":{"saturation":0.5}}"#);
        assert!(text.contains("missing field `brightness`"), "{text}");
        let text = refused::<Sweep>(r#"{"factors":[0.0],"prompts":1}"#);
        assert!(text.contains("missing field `rewards`"), "{text}");
        let text = refused::<SelectionRow>(r#"{"id":"p1-v01-s0","prompt_id":"p1"}"#);
        assert!(text.contains("missing field `variant`"), "{text}");
    }
}
