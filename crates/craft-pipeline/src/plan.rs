//! What a run will take, stage by stage: room on the disk, memory, and time where it was measured. Written to
//! `plan.json`, so that it can be compared with what the stages took.

use std::path::Path;

use craft_core::Recipe;
use craft_core::records::{self, Planned};
use craft_store::{Manifest, RunFolder};

use crate::context::Context;
use crate::cost::{Cost, Work, gib};
use crate::error::{PipelineError, Result};
use crate::rates::Rates;
use crate::stages::table::{Entry, StageId, TABLE};

/// In the run folder.
pub(crate) const FILE: &str = "plan.json";

/// Bytes of a drawn picture's PNG, in quarters of a byte a pixel. Measured: the embedded model's take 0.8 a
/// pixel, those of SDXL at 1024 by 1024 1.4; noise takes 3.
const QUARTERS_OF_A_PIXEL: u64 = 7;
/// Text and structure of a PNG, and the rest of its last block on the disk.
const PICTURE_EXTRA: u64 = 4 << 10;
/// Rows of a candidate: itself, its wording, its scores, its selection, its line in a manifest.
const CANDIDATE_ROWS: u64 = 1 << 10;
/// A line of the cache of scores.
const CACHED_SCORE: u64 = 320;
/// A row of the evaluation.
const SAMPLE_ROW: u64 = 1 << 10;
/// Candidates whose pictures the page shows at most.
const SHOWN: u64 = 10_000;
/// What is left free for logs, manifests and the page.
const RESERVE: u64 = 64 << 20;
/// Memory of the program without models.
const PROGRAM: u64 = 48 << 20;
/// Of each candidate while it is selected.
const CHOSEN: u64 = 160;
const FLOAT: u64 = 4;

/// Bytes of the PNG of a picture of so many pixels, at most but for noise.
pub(crate) fn picture_bytes(pixels: u64) -> u64 {
    pixels * QUARTERS_OF_A_PIXEL / 4 + PICTURE_EXTRA
}

/// Bytes of the latents of a picture.
pub(crate) fn latent_bytes([c, h, w]: [usize; 3]) -> u64 {
    (c * h * w) as u64 * FLOAT
}

/// What a run is going to take, and what is certain of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan {
    /// `plan.json`.
    record: records::Plan,
    /// What the run cannot do without, whatever the estimates are worth.
    floor: Floor,
}

/// Bytes that are certain: weights, gradients and optimizer state in memory; latents and models on the disk, and
/// pictures at half a byte a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Floor {
    disk: u64,
    drawing: u64,
    scoring: u64,
    training: u64,
}

/// Sizes that a plan is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// Channels, height and width.
    pub(crate) latents: [usize; 3],
    pub(crate) pixels: u64,
    /// Weights of the rewards that are in memory together.
    pub(crate) rewards: u64,
    /// How many rewards there are.
    pub(crate) reward_count: u64,
}

impl Plan {
    /// The plan of a recipe on a model of these sizes.
    pub(crate) fn new(
        recipe: &Recipe,
        work: &Work,
        sizes: Sizes,
        cost: &Cost,
        rates: Option<&Rates>,
    ) -> Self {
        let (candidates, evaluated) = (work.candidates as u64, work.evaluated as u64);
        let Sizes { pixels, reward_count, .. } = sizes;
        let (latent, picture) = (latent_bytes(sizes.latents), picture_bytes(pixels));
        let scoring = PROGRAM + sizes.rewards + 64 * pixels * 3;
        let drawing = PROGRAM + cost.drawing_bytes();
        let training = PROGRAM + cost.training_bytes();
        let [trained, arms] = [cost.checkpoint_bytes(), work.arms as u64];
        let time = |id| rates.and_then(|rates| rates.seconds(id, recipe, work));
        let disk = |id: StageId| match id {
            StageId::Prompts | StageId::Expand => 0,
            StageId::Generate => candidates * (latent + picture + CANDIDATE_ROWS / 2),
            StageId::Score => candidates * (CANDIDATE_ROWS / 4 + reward_count * CACHED_SCORE),
            StageId::Select => candidates * CANDIDATE_ROWS / 4,
            // The trainings of earlier rounds leave theirs too.
            StageId::Train => trained / arms.max(1) * work.rounds(recipe) as u64,
            StageId::Control => trained / arms.max(1),
            StageId::Evaluate | StageId::Sweep => {
                let rows = SAMPLE_ROW + reward_count * CACHED_SCORE;
                work.pictures_of(id == StageId::Sweep) as u64 * (picture + rows)
            }
            StageId::Report => (candidates.min(SHOWN) + evaluated) * picture,
        };
        let memory = |entry: &Entry| match entry.id {
            StageId::Train | StageId::Control => training,
            StageId::Select => PROGRAM + candidates * CHOSEN,
            _ => PROGRAM.max(if entry.model { drawing } else { 0 }).max(if entry.rewards {
                scoring
            } else {
                0
            }),
        };
        let planned = TABLE.iter().filter(|entry| (entry.wanted)(recipe));
        let mut stages: Vec<Planned> = planned
            .map(|entry| Planned {
                stage: entry.stage.name().to_owned(),
                disk_bytes: disk(entry.id),
                memory_bytes: memory(entry),
                seconds: time(entry.id),
            })
            .collect();
        stages.push(Planned {
            stage: "report".to_owned(),
            disk_bytes: disk(StageId::Report),
            memory_bytes: PROGRAM,
            seconds: None,
        });
        let floor = Floor {
            disk: candidates * (latent + pixels / 2) + evaluated * pixels / 2 + trained / 2,
            drawing: cost.weights_of_drawing(),
            scoring: sizes.rewards,
            training: cost.certain_bytes(),
        };
        let record = records::Plan {
            candidates,
            evaluation_pictures: evaluated,
            disk_bytes: stages.iter().map(|stage| stage.disk_bytes).sum(),
            stages,
            threads: rayon::current_num_threads(),
        };
        Self { record, floor }
    }

    /// What the disk of a path lacks, in words: certain (the run cannot end well) or likely.
    fn disk(&self, folder: &Path, free: u64, written: u64) -> Option<(bool, String)> {
        let needed = self.record.disk_bytes.saturating_sub(written) + RESERVE;
        let least = self.floor.disk.saturating_sub(written) + RESERVE;
        (needed > free).then(|| {
            let mib = |bytes: u64| format!("{} MiB", bytes.div_ceil(1 << 20));
            let text = format!(
                "not enough space on the disk of {}: about {} needed (at least {}), {} free; free some, choose a folder on another disk, or lower prompts.train_count, expand.variants, generate.samples, generate.height or generate.width",
                folder.display(),
                mib(needed),
                mib(least),
                mib(free)
            );
            (least > free, text)
        })
    }

    /// What the memory lacks, likewise, for the stages that are still to be done.
    fn memory(&self, available: u64, open: &dyn Fn(&str) -> bool) -> Option<(bool, String)> {
        let stages =
            self.record.stages.iter().filter(|s| open(&s.stage) && s.memory_bytes > available);
        let lacking = stages.map(|stage| {
            let name = stage.stage.as_str();
            let (least, keys) = match name {
                "train" | "control" => (
                    self.floor.training,
                    "lower train.micro_batch, or set train.gradient_checkpointing = true, train.mode = \"lora\" or train.precision = \"bf16\"",
                ),
                "generate" => {
                    (self.floor.drawing, "lower generate.batch, generate.height or generate.width")
                }
                "score" => (self.floor.scoring, "take fewer or smaller rewards"),
                _ => (
                    self.floor.drawing.max(self.floor.scoring),
                    "lower generate.batch, generate.height or generate.width, or take fewer or smaller rewards",
                ),
            };
            let text = format!(
                "{name} needs about {} of memory (at least {}), and {} are available: {keys}",
                gib(stage.memory_bytes),
                gib(least),
                gib(available)
            );
            (least > available, text)
        });
        // What is certain comes first.
        lacking.max_by_key(|(certain, _)| *certain)
    }

    /// Refuses a run that cannot fit on this machine, and warns of one that likely does not. Stages that are
    /// done, and what is written, need nothing more.
    ///
    /// # Errors
    /// When disk or memory are certainly too small.
    pub(crate) fn check(&self, folder: &Path, last: StageId, context: &Context<'_>) -> Result<()> {
        let done =
            |entry: &Entry| Ok::<_, PipelineError>(Manifest::of(folder, &entry.stage)?.is_some());
        let mut open = Vec::new();
        for entry in TABLE.iter().filter(|entry| entry.id <= last) {
            if !done(entry)? {
                open.push(entry.stage.name());
            }
        }
        let mut found = Vec::new();
        let free = craft_store::space::free_bytes(folder).filter(|_| open.contains(&"generate"));
        if let Some(free) = free {
            found.extend(self.disk(folder, free, craft_store::space::used_bytes(folder)));
        }
        if let Some(available) = craft_store::space::available_memory() {
            found.extend(self.memory(available, &|stage| open.contains(&stage)));
        }
        for (certain, text) in found {
            if certain {
                return Err(PipelineError::DoesNotFit(text));
            }
            context.progress.note(&format!("warning: {text}"));
        }
        Ok(())
    }

    /// Keeps the plan of a run that begins; one that is there stays.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn keep(&self, folder: &RunFolder) -> Result<()> {
        let path = folder.join(FILE);
        if path.exists() {
            return Ok(());
        }
        Ok(craft_store::manifest::write_json(&path, &self.record)?)
    }

    /// The plan for people, a line each for disk, memory and time.
    pub(crate) fn lines(&self) -> String {
        let each = |show: &dyn Fn(&Planned) -> Option<String>| -> String {
            let shown =
                self.record.stages.iter().filter_map(|s| Some(format!("{} {}", s.stage, show(s)?)));
            shown.collect::<Vec<_>>().join(", ")
        };
        let total: f64 = self.record.stages.iter().filter_map(|stage| stage.seconds).sum();
        let disk = each(&|s| (s.disk_bytes > 0).then(|| gib(s.disk_bytes)));
        let memory = each(&|s| (s.memory_bytes > PROGRAM).then(|| gib(s.memory_bytes)));
        let mut lines = format!(
            "disk: {} = {disk}\nmemory at most, by stage: {memory}",
            gib(self.record.disk_bytes)
        );
        if total > 0.0 {
            let time = each(&|s| s.seconds.map(crate::cost::duration));
            lines += &format!("\ntime: about {} = {time}", crate::cost::duration(total));
        }
        lines
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SD15: &str = include_str!("../../../recipes/sd15.toml");
    const SDXL: &str = include_str!("../../../recipes/sdxl.toml");

    /// The plan of a shipped recipe on a model of so many million parameters, without its weights.
    fn planned(text: &str, million: u64, side: usize) -> (Recipe, Work, Plan) {
        let recipe = Recipe::parse::<String>(text, &[]).unwrap();
        let work = Work::of(&recipe, recipe.prompts.train_count.unwrap(), 100);
        let cost = Cost::of_parameters(million * 1_000_000, work.arms as u64);
        let sizes = Sizes {
            latents: [4, side / 8, side / 8],
            pixels: (side * side) as u64,
            rewards: 4 << 30,
            reward_count: recipe.rewards.len() as u64,
        };
        let plan = Plan::new(&recipe, &work, sizes, &cost, None);
        (recipe, work, plan)
    }

    #[test]
    fn shipped_recipes_are_planned_by_the_sizes_of_what_they_write() {
        for (text, million, side) in [(SD15, 1067, 512), (SDXL, 3469, 1024)] {
            let (recipe, work, plan) = planned(text, million, side);
            assert_eq!(
                work.candidates,
                recipe.candidate_count(recipe.prompts.train_count.unwrap())
            );
            let generate = plan.record.stages.iter().find(|s| s.stage == "generate").unwrap();
            // What candidates hold at least: latents of 32 bits, and pictures of half a byte a pixel.
            let (n, pixels) = (work.candidates as u64, (side * side) as u64);
            let latents = n * (pixels / 64) * 4 * 4;
            assert_eq!(latent_bytes([4, side / 8, side / 8]) * n, latents);
            assert!(generate.disk_bytes > latents + n * pixels / 2);
            // No picture is larger than its pixels and what a PNG adds.
            assert!(generate.disk_bytes < latents + n * (3 * pixels + 8192));
            assert_eq!(
                plan.record.disk_bytes,
                plan.record.stages.iter().map(|s| s.disk_bytes).sum::<u64>()
            );
        }
    }

    #[test]
    fn what_certainly_does_not_fit_is_refused_and_what_may_not_is_told() {
        let (.., plan) = planned(SD15, 1067, 512);
        let disk = |free: u64| plan.disk(Path::new("runs/x"), free, 0);
        assert_eq!(disk(u64::MAX), None);
        assert!(!disk(plan.record.disk_bytes - 1).unwrap().0);
        let (certain, text) = disk(1 << 30).unwrap();
        assert!(
            certain && text.contains("prompts.train_count") && text.contains("runs/x"),
            "{text}"
        );
        let all = |_: &str| true;
        assert_eq!(plan.memory(u64::MAX, &all), None);
        let (certain, text) = plan.memory(1 << 30, &all).unwrap();
        assert!(certain && text.contains("are available: "), "{text}");
        // A stage that is done needs nothing.
        assert_eq!(plan.memory(1 << 30, &|_| false), None);
    }
}
