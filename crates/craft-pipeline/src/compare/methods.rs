//! The methods that can be compared: what each trains on, by which loss, and what it needs.

use craft_core::Recipe;
use craft_core::recipe::{RewardRole, nearest};
use craft_diffusion::kto;
use serde::Serialize;

use super::change::Change;
use super::pipeline::{PipelineError, Result};

/// What a method trains on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) enum Data {
    /// Candidates that the filter and the budget leave, weighted by advantage.
    Selected,
    /// As many random candidates as CRAFT selects.
    Random,
    /// All candidates.
    All,
    /// The best candidate of each prompt.
    Best,
    /// All candidates, weighted by the softmax of their total over those of the prompt.
    Softmax,
    /// Pairs that annotators judged.
    AnnotatedPairs,
    /// The best and the worst picture of each prompt.
    RewardPairs,
    /// The pictures of annotated pairs, each liked or not.
    AnnotatedLabels,
    /// The best and the worst picture of each prompt, each liked or not.
    RewardLabels,
    /// What CRAFT selects, all of it liked.
    SelectedLiked,
    /// What CRAFT selects, liked, and as many candidates of the lowest advantages, disliked.
    SelectedLabels,
    /// All pictures of a prompt at once, with listwise weights.
    Groups,
    /// All pictures, each with its advantage in its group.
    Advantages,
    /// The prompts alone: the method draws as it goes.
    Prompts,
    /// Nothing: the base model with so many per cent of the evaluation's guidance.
    Guided(u32),
}

impl Data {
    /// Whether it needs pairs from annotators.
    pub(super) fn annotated(self) -> bool {
        matches!(self, Self::AnnotatedPairs | Self::AnnotatedLabels)
    }

    /// Whether it uses the candidates of the seed.
    pub(super) fn drawn(self) -> bool {
        !self.annotated() && !matches!(self, Self::Prompts | Self::Guided(_))
    }

    /// Whether it looks at rewards of candidates.
    pub(super) fn scored(self) -> bool {
        self.drawn() && !matches!(self, Self::Random | Self::All)
    }

    /// Guidance factor of an untrained baseline.
    pub(super) fn guidance(self) -> Option<f64> {
        match self {
            Self::Guided(percent) => Some(f64::from(percent) / 100.0),
            _ => None,
        }
    }

    /// Whether it picks or weighs among several candidates of one prompt.
    fn within_prompt(self) -> bool {
        matches!(self, Self::Best | Self::Softmax)
    }
}

/// What a method minimises.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) enum Loss {
    /// Weighted denoising loss.
    Weighted,
    /// Diffusion-DPO with its β.
    Dpo(f64),
    /// Diffusion-KTO with its β.
    Kto(f64),
    /// MaPO.
    Mapo,
    /// Listwise implicit rewards with their β.
    Lair(f64),
    /// DiffusionNFT with its β.
    Nft(f64),
    /// Advantage-weighted matching.
    Awm,
    /// DDPO.
    Ddpo,
    /// SPO.
    Spo,
}

impl Loss {
    /// Whether the frozen base model predicts beside the tuned one.
    pub(super) fn has_reference(self) -> bool {
        !matches!(self, Self::Weighted | Self::Mapo | Self::Ddpo)
    }
}

/// A method.
#[derive(Clone, Copy, Debug)]
pub struct Method {
    /// Its name on the command line and in files.
    pub name: &'static str,
    /// What it is, in a few words.
    pub about: &'static str,
    pub(super) data: Data,
    pub(super) loss: Loss,
    /// Its longest training in multiples of the recipe's steps.
    pub(super) length: usize,
    /// Rewards that filter, by a part of their names; `None`: as the recipe says.
    filter: Option<&'static [&'static str]>,
}

const fn method(
    name: &'static str,
    about: &'static str,
    data: Data,
    loss: Loss,
    length: usize,
) -> Method {
    Method { name, about, data, loss, length, filter: None }
}

const fn filtered(
    name: &'static str,
    about: &'static str,
    filter: &'static [&'static str],
) -> Method {
    Method { filter: Some(filter), ..method(name, about, Data::Selected, Loss::Weighted, 1) }
}

/// β of DPO for SD 1.5 in the paper (the reference's launchers use 5000).
const DPO_BETA: f64 = 2000.0;
/// Methods over pairs start slowly, so they may train for longer.
const LONGER: usize = 4;

/// All methods; CRAFT is the first.
const METHODS: &[Method] = &[
    method("craft", "CRAFT with the recipe's filter", Data::Selected, Loss::Weighted, 1),
    filtered("craft-h", "CRAFT, filter of HPS alone", &["hps"]),
    filtered("craft-ha", "CRAFT, filter of HPS and the aesthetic score", &["hps", "aes"]),
    filtered(
        "craft-hpa",
        "CRAFT, filter of HPS, PickScore and the aesthetic score",
        &["hps", "pick", "aes"],
    ),
    filtered("craft-none", "CRAFT without a filter: the best by advantage", &[]),
    method("random", "as many random candidates, weights 1", Data::Random, Loss::Weighted, 1),
    method("sft", "all candidates, weights 1", Data::All, Loss::Weighted, 1),
    method("raft", "RAFT: the best candidate of each prompt", Data::Best, Loss::Weighted, 1),
    method("rwr", "RWR: softmax-of-reward weights", Data::Softmax, Loss::Weighted, 1),
    method("dpo", "Diffusion-DPO, annotators", Data::AnnotatedPairs, Loss::Dpo(DPO_BETA), LONGER),
    method(
        "dpo-rewards",
        "Diffusion-DPO, best against worst by CRAFT's rewards",
        Data::RewardPairs,
        Loss::Dpo(DPO_BETA),
        LONGER,
    ),
    method("kto", "Diffusion-KTO, annotators", Data::AnnotatedLabels, Loss::Kto(kto::BETA), LONGER),
    method(
        "kto-rewards",
        "Diffusion-KTO, best and worst by CRAFT's rewards",
        Data::RewardLabels,
        Loss::Kto(kto::BETA),
        LONGER,
    ),
    method(
        "kto-liked",
        "Diffusion-KTO on what CRAFT selects, liked",
        Data::SelectedLiked,
        Loss::Kto(kto::BETA),
        LONGER,
    ),
    method(
        "kto-selected",
        "Diffusion-KTO on what CRAFT selects, liked, and as many of the worst, disliked",
        Data::SelectedLabels,
        Loss::Kto(kto::BETA),
        LONGER,
    ),
    method("mapo", "MaPO, annotators", Data::AnnotatedPairs, Loss::Mapo, LONGER),
    method(
        "mapo-rewards",
        "MaPO, best against worst by CRAFT's rewards",
        Data::RewardPairs,
        Loss::Mapo,
        LONGER,
    ),
    method("lair", "listwise weights on implicit rewards", Data::Groups, Loss::Lair(100.0), LONGER),
    method("nft", "DiffusionNFT, offline", Data::Advantages, Loss::Nft(1.0), LONGER),
    method("awm", "advantage-weighted matching, offline", Data::Advantages, Loss::Awm, LONGER),
    method("ddpo", "DDPO, online", Data::Prompts, Loss::Ddpo, LONGER),
    method(
        "guidance-1.5",
        "the base model at 1.5 times the guidance, untrained",
        Data::Guided(150),
        Loss::Weighted,
        0,
    ),
    method(
        "guidance-2",
        "the base model at twice the guidance, untrained",
        Data::Guided(200),
        Loss::Weighted,
        0,
    ),
    method("spo", "SPO, online, step-aware pairs", Data::Prompts, Loss::Spo, LONGER),
];

/// The methods of a comparison when none are named.
const DEFAULT: &[&str] =
    &["craft", "random", "guidance-1.5", "guidance-2", "sft", "raft", "rwr", "dpo", "kto"];
/// The same with `--quick`.
const QUICK: &[&str] = &["craft", "random", "sft", "dpo"];

impl Method {
    /// All of them, in the order of the table.
    pub fn all() -> &'static [Self] {
        METHODS
    }

    /// Those of a comparison that names none; fewer for a first look.
    pub fn default_set(quick: bool) -> Vec<&'static Self> {
        let names = if quick { QUICK } else { DEFAULT };
        names.iter().filter_map(|name| METHODS.iter().find(|m| m.name == *name)).collect()
    }

    /// The method of this name.
    ///
    /// # Errors
    /// When there is none; the message lists all.
    pub fn named(name: &str) -> Result<&'static Self> {
        METHODS.iter().find(|m| m.name == name).ok_or_else(|| {
            let all: Vec<&str> = METHODS.iter().map(|m| m.name).collect();
            let near = nearest(name, all.iter().copied())
                .map_or(".".to_owned(), |near| format!("; did you mean `{near}`?"));
            PipelineError::Usage(format!(
                "there is no method `{name}`{near} Known are {}",
                all.join(", ")
            ))
        })
    }

    /// CRAFT as the recipe has it.
    pub(super) fn craft() -> &'static Self {
        &METHODS[0]
    }

    /// What the method changes of the recipe.
    ///
    /// # Errors
    /// When the recipe has no reward that the filter needs.
    pub(super) fn changes(&self, recipe: &Recipe) -> Result<Vec<Change>> {
        let Some(wanted) = self.filter else { return Ok(Vec::new()) };
        let training = recipe.reward_names(RewardRole::Train);
        for part in wanted {
            if !training.iter().any(|name| name.as_str().contains(part)) {
                let names: Vec<&str> = training.iter().map(|n| n.as_str()).collect();
                return Err(PipelineError::Usage(format!(
                    "{}: its filter needs a reward with `{part}` in its name and role = \"train\", but the recipe has only {}; add it under [[rewards]] or leave the method out",
                    self.name,
                    names.join(", ")
                )));
            }
        }
        let filters = training.into_iter().map(|name| {
            let used = wanted.iter().any(|part| name.as_str().contains(part));
            Change::Filter(name.clone(), used)
        });
        // Whoever names a filter means all of it.
        Ok(filters.chain([Change::MinPasses(wanted.len())]).collect())
    }

    /// Refuses what the method cannot work with.
    pub(super) fn check(&self, recipe: &Recipe, has_annotators: bool) -> Result<()> {
        if self.data.annotated() && !has_annotators {
            let instead = format!("{}-rewards", self.name);
            return Err(PipelineError::Usage(format!(
                "{}: it needs preference pairs, and only the embedded world (prompts.source = \"pocket\") has annotators; take `{instead}`, which makes pairs from the rewards of the candidates, or leave it out",
                self.name
            )));
        }
        if self.data.guidance().is_some() && recipe.evaluate_guidance_scale() <= 1.0 {
            return Err(PipelineError::Usage(format!(
                "{}: it draws with more guidance, and the recipe draws without (evaluate.guidance_scale = {}); set a scale above 1 or leave the method out",
                self.name,
                recipe.evaluate_guidance_scale()
            )));
        }
        let group = recipe.expand.variants * recipe.generate.samples;
        if self.data.within_prompt() && group < 2 {
            return Err(PipelineError::Usage(format!(
                "{}: it compares candidates of one prompt, and there is only {group} (expand.variants = {} × generate.samples = {}); draw at least 2 or leave the method out",
                self.name, recipe.expand.variants, recipe.generate.samples
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::ablations::Ablation;
    use super::*;

    #[test]
    fn every_name_stands_in_the_document() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/compare.md");
        let page = std::fs::read_to_string(path).unwrap();
        let names = METHODS.iter().map(|method| method.name);
        for name in names.chain(Ablation::all().iter().map(Ablation::name)) {
            assert!(
                page.contains(&format!("`{name}`")),
                "docs/compare.md says nothing of `{name}`"
            );
        }
    }

    #[test]
    fn names_are_unique_and_the_defaults_exist() {
        for (i, method) in METHODS.iter().enumerate() {
            assert!(METHODS[..i].iter().all(|other| other.name != method.name), "{}", method.name);
            let rewards = format!("{}-rewards", method.name);
            let has = METHODS.iter().any(|m| m.name == rewards);
            assert_eq!(has, method.data.annotated(), "{}: the error names {rewards}", method.name);
        }
        assert_eq!(Method::default_set(false).len(), DEFAULT.len());
        assert_eq!(Method::default_set(true).len(), QUICK.len());
        assert_eq!(Method::craft().name, "craft");
        let error = Method::named("dop").unwrap_err().to_string();
        for words in ["`dop`", "did you mean `dpo`?", "raft"] {
            assert!(error.contains(words), "{error}");
        }
    }
}
