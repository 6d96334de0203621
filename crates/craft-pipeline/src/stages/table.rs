//! The table of stages: names, order, what each reads and needs. A new stage is a line here.

use craft_core::Recipe;
use craft_store::{Manifest, Stage};

use crate::driver::Advance;
use crate::error::Result;
use crate::stages::train::Arm;
use crate::stages::{evaluate, expand, generate, prompts, score, select, sweep};

/// A stage, in the order in which they are performed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StageId {
    /// The prompts of both splits.
    Prompts,
    /// Richer wordings of the training prompts.
    Expand,
    /// Candidates of the base model.
    Generate,
    /// Their scores.
    Score,
    /// What is trained on, and the random control.
    Select,
    /// The tuned model.
    Train,
    /// The model tuned on the random control.
    Control,
    /// The comparison of the models.
    Evaluate,
    /// Strengths between base and tuned weights.
    Sweep,
    /// The summary and the page; always made anew.
    Report,
}

/// A line of the table.
pub(crate) struct Entry {
    pub(crate) id: StageId,
    /// Its name and its folder.
    pub(crate) stage: Stage,
    /// The stages whose results it reads. One that a recipe leaves out is passed over.
    pub(crate) inputs: &'static [StageId],
    /// Whether it loads a model.
    pub(crate) model: bool,
    /// Whether it loads rewards.
    pub(crate) rewards: bool,
    /// Whether a recipe asks for it.
    pub(crate) wanted: fn(&Recipe) -> bool,
    /// Does it, or finds it done. The manifests are those of `inputs`, in their order.
    pub(crate) perform: fn(&Advance<'_>, &[&Manifest]) -> Result<Manifest>,
}

const fn always(_: &Recipe) -> bool {
    true
}

use StageId::{Control, Evaluate, Expand, Generate, Prompts, Score, Select, Sweep, Train};

/// The stages that leave a manifest, in order.
pub(crate) static TABLE: [Entry; 9] = [
    Entry {
        id: Prompts,
        stage: Stage::PROMPTS,
        inputs: &[],
        model: false,
        rewards: false,
        wanted: always,
        perform: |at, _| prompts::run(&at.run),
    },
    Entry {
        id: Expand,
        stage: Stage::EXPAND,
        inputs: &[Prompts],
        model: false,
        rewards: false,
        wanted: always,
        perform: |at, from| expand::run(&at.run, from[0]),
    },
    Entry {
        id: Generate,
        stage: Stage::GENERATE,
        inputs: &[Expand],
        model: true,
        rewards: false,
        wanted: always,
        perform: |at, from| generate::run(&at.run, &at.start, from[0]),
    },
    Entry {
        id: Score,
        stage: Stage::SCORE,
        inputs: &[Generate],
        model: false,
        rewards: true,
        wanted: always,
        perform: |at, from| score::run(&at.run, at.rewards, &at.hashes, from[0]),
    },
    Entry {
        id: Select,
        stage: Stage::SELECT,
        inputs: &[Score],
        model: false,
        rewards: false,
        wanted: always,
        perform: |at, from| select::run(&at.run, from[0]),
    },
    Entry {
        id: Train,
        stage: Stage::TRAIN,
        inputs: &[Generate, Select],
        model: true,
        rewards: true,
        wanted: always,
        perform: |at, from| at.train(Arm::Craft, [from[0], from[1]]),
    },
    Entry {
        id: Control,
        stage: Stage::CONTROL,
        inputs: &[Generate, Select],
        model: true,
        rewards: false,
        wanted: |recipe| recipe.control.enabled,
        perform: |at, from| at.train(Arm::Control, [from[0], from[1]]),
    },
    Entry {
        id: Evaluate,
        stage: Stage::EVALUATE,
        inputs: &[Prompts, Train, Control],
        model: true,
        rewards: true,
        wanted: always,
        perform: |at, from| evaluate::run(&at.run, &at.models(), at.rewards, &at.hashes, from),
    },
    Entry {
        id: Sweep,
        stage: sweep::STAGE,
        inputs: &[Prompts, Train],
        model: true,
        rewards: true,
        wanted: |recipe| recipe.sweep.enabled,
        perform: |at, from| {
            let models = [at.model, &at.run.path("aligned")];
            sweep::run(&at.run, models, at.rewards, &at.hashes, from)
        },
    },
];

impl StageId {
    /// The stages that a command performs by name, with the last stage that each performs.
    pub const COMMANDS: [(&'static str, Self); 8] = [
        ("prompts", Prompts),
        ("expand", Expand),
        ("generate", Generate),
        ("score", Score),
        ("select", Select),
        ("train", Control),
        ("evaluate", Evaluate),
        ("report", Self::Report),
    ];

    /// The last stage that a command performs.
    pub fn of_command(name: &str) -> Option<Self> {
        Self::COMMANDS.iter().find(|(command, _)| *command == name).map(|(_, last)| *last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_read_only_what_is_done_before_them() {
        for (place, entry) in TABLE.iter().enumerate() {
            assert_eq!(entry.id as usize, place);
            assert!(entry.inputs.iter().all(|input| *input < entry.id), "{:?}", entry.id);
            assert!(TABLE[..place].iter().all(|e| e.stage.folder() != entry.stage.folder()));
        }
        assert_eq!(StageId::of_command("train"), Some(Control));
        assert_eq!(StageId::of_command("tune"), None);
    }
}
