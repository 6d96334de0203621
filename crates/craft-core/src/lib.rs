//! The method of CRAFT as types and pure functions.
//!
//! Prompts and ids, random number keys, template expansion, reward scores, composite reward
//! filtering with group advantages, noise schedules, processes and samplers, recipes, and the statistics of an
//! evaluation.
//!
//! Invariant: nothing here touches a disk, a network, a clock, a global random number generator
//! or a tensor library. Every function is a deterministic map of its arguments.

pub mod expand;
pub mod process;
pub mod progress;
pub mod prompt;
pub mod prompt_file;
pub mod recipe;
pub mod records;
pub mod reward;
pub mod rng;
pub mod sampler;
pub mod schedule;
pub mod select;
pub mod stats;
pub mod torch_rng;

pub use progress::{Progress, Silent};
pub use prompt::{Candidate, CandidateId, Prompt, PromptId, Split, Wording};
pub use recipe::Recipe;
pub use reward::{Missing, RewardName, ScoreRow};
pub use rng::{Key, Stream};
pub use torch_rng::TorchRng;
