//! Simulated people who compare pictures: four populations with different tastes.
//!
//! A population values a picture by a weighted sum of the quality axes, of the share of facts that the
//! picture gets right, and of a quirk of its own. An individual's weights lie around those of the
//! population; the individual chooses by Bradley–Terry, and now and then carelessly.

use serde::{Deserialize, Serialize};

use super::caption::sample_training_example;
use super::depict::{Depiction, depict, depict_miscounted, depict_wrongly};
use super::facts::{Fact, FactKind};
use super::judge::{fraction_right, judge_scene};
use super::prompts::{PocketPrompt, fnv};
use super::quality::Quality;
use super::rng::WorldRng;
use super::scene::{Scene, SizeClass};

/// Which people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Population {
    /// Like vivid colours and large objects.
    Hps,
    /// Like sharpness, and pictures that show what was asked for.
    Pick,
    /// Never read the prompt; like contrast, composition and clean backgrounds.
    Aes,
    /// Like everything evenly, most of all what was asked for. Held out from training: they see prompts of
    /// their own, which the other three never see.
    Ir,
}

impl Population {
    /// All populations.
    pub const ALL: [Self; 4] = [Self::Hps, Self::Pick, Self::Aes, Self::Ir];

    /// Its name as it stands in JSON.
    pub fn word(self) -> &'static str {
        ["hps", "pick", "aes", "ir"][self as usize]
    }

    fn taste(self) -> Taste {
        match self {
            Self::Hps => {
                Taste { axes: [0.8, 1.0, 0.6, 0.6], align: 2.4, count: 1.2, vivid: 0.6, large: 0.5 }
            }
            Self::Pick => {
                Taste { axes: [1.5, 0.6, 0.5, 0.5], align: 3.0, count: 1.5, vivid: 0.0, large: 0.0 }
            }
            Self::Aes => {
                Taste { axes: [0.7, 1.3, 1.0, 1.2], align: 0.0, count: 0.0, vivid: 0.0, large: 0.0 }
            }
            Self::Ir => {
                Taste { axes: [0.9, 0.9, 0.9, 0.9], align: 3.2, count: 1.5, vivid: 0.0, large: 0.0 }
            }
        }
    }
}

/// Weights of a utility.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Taste {
    axes: [f32; 4],
    /// On the share of facts that hold.
    align: f32,
    /// On the right number of objects, over and above its place among the facts: nothing else that is wrong
    /// with a picture is seen as fast as an object too many.
    count: f32,
    /// On the square of contrast: the last bit of saturation counts most.
    vivid: f32,
    /// On the share of objects that are large.
    large: f32,
}

impl Taste {
    fn utility(&self, facts: &[Fact], scene: &Scene, quality: &Quality) -> f32 {
        let looks: f32 = self.axes.iter().zip(quality.to_array()).map(|(w, q)| w * q).sum();
        let judged = judge_scene(scene, facts);
        let miscounted =
            facts.iter().zip(&judged).any(|(fact, ok)| fact.kind() == FactKind::Count && !ok);
        let large = scene.objects.iter().filter(|o| o.look.size == SizeClass::Large).count() as f32
            / scene.objects.len().max(1) as f32;
        looks
            + self.align * fraction_right(&judged)
            + if miscounted { 0.0 } else { self.count }
            + self.vivid * quality.contrast * quality.contrast
            + self.large * large
    }

    /// An individual's taste: every weight times a log-normal factor.
    fn individual(&self, rng: &mut WorldRng) -> Self {
        let mut near = |w: f32| w * (0.35 * rng.normal()).exp();
        Self {
            axes: self.axes.map(&mut near),
            align: near(self.align),
            count: near(self.count),
            vivid: near(self.vivid),
            large: near(self.large),
        }
    }
}

/// Utility difference at which an individual's odds are e to 1.
const TEMPERATURE: f32 = 0.3;
/// Share of careless choices, which are right half the time.
const CARELESS: f32 = 0.04;

/// A choice between two pictures for one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PreferencePair {
    /// What was asked for.
    pub prompt: PocketPrompt,
    /// One picture.
    pub a: Depiction,
    /// The other picture.
    pub b: Depiction,
    /// Whether the individual chose `a`.
    pub a_preferred: bool,
    /// Utility of `a` minus that of `b` to the population as a whole, without noise.
    pub margin: f32,
}

/// A picture with a rating from 1 to 10.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RatedPicture {
    /// What the picture was drawn for; the raters may not have read it.
    pub prompt: PocketPrompt,
    /// The picture.
    pub picture: Depiction,
    /// An individual's rating, 1 to 10.
    pub rating: f32,
    /// The population's rating without noise, 1 to 10.
    pub consensus: f32,
}

/// A population of annotators.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Annotators {
    population: Population,
    taste: Taste,
}

impl Annotators {
    /// The annotators of a population.
    pub fn new(population: Population) -> Self {
        Self { population, taste: population.taste() }
    }

    /// Which population this is.
    pub fn population(&self) -> Population {
        self.population
    }

    /// What a picture is worth to the population, without noise. Scales differ between populations.
    pub fn utility(&self, prompt_facts: &[Fact], scene: &Scene, quality: &Quality) -> f32 {
        self.taste.utility(prompt_facts, scene, quality)
    }

    /// The population's rating, 1 to 10, without noise: linear in utility.
    pub fn rating(&self, prompt_facts: &[Fact], scene: &Scene, quality: &Quality) -> f32 {
        let t = &self.taste;
        let most = t.axes.iter().sum::<f32>() + t.align + t.count + t.vivid + t.large;
        1.0 + 9.0 * self.utility(prompt_facts, scene, quality) / most
    }

    /// A prompt of this population's own: half of all texts belong to `ir`, the other half to the rest.
    pub fn sample_prompt(&self, rng: &mut WorldRng) -> PocketPrompt {
        loop {
            let prompt = PocketPrompt::random(rng);
            if (fnv(&prompt.text) & 1 == 1) == (self.population == Population::Ir) {
                return prompt;
            }
        }
    }

    /// Two pictures for a prompt and an individual's choice. Pictures are right about half the time; the
    /// others get one or two facts wrong, and a few show something else altogether. In a third of the
    /// pairs both are drawn about equally well, so that content decides (not for those who look at quality alone).
    pub fn sample_pair(&self, rng: &mut WorldRng) -> PreferencePair {
        let prompt = self.sample_prompt(rng);
        let mut a = sample_depiction(&prompt.facts, rng);
        let b = sample_depiction(&prompt.facts, rng);
        if self.taste.align > 0.0 && rng.chance(0.33) {
            let near = b.quality.to_array().map(|q| q + 0.06 * rng.normal());
            a.quality = Quality::from_array(near);
        }
        let margin = self.utility(&prompt.facts, &a.scene, &a.quality)
            - self.utility(&prompt.facts, &b.scene, &b.quality);
        let someone = self.taste.individual(rng);
        let felt = someone.utility(&prompt.facts, &a.scene, &a.quality)
            - someone.utility(&prompt.facts, &b.scene, &b.quality);
        let p = if rng.chance(CARELESS) { 0.5 } else { 1.0 / (1.0 + (-felt / TEMPERATURE).exp()) };
        let a_preferred = rng.chance(p);
        PreferencePair { prompt, a, b, a_preferred, margin }
    }

    /// Two pictures for one prompt, rated by one individual: of ten sittings, four compare pictures drawn
    /// equally well of which one shows what was asked for (the other half the time differs in the number of
    /// objects), three the same scene drawn differently, and three any two pictures. Individuals differ in
    /// mean by .5 and in each rating by .5.
    pub fn sample_sitting(&self, rng: &mut WorldRng) -> [RatedPicture; 2] {
        let prompt = self.sample_prompt(rng);
        let facts = &prompt.facts;
        let mut a = sample_depiction(facts, rng);
        let mut b = sample_depiction(facts, rng);
        match rng.weighted(&[0.4, 0.3, 0.3]) {
            0 => {
                a.scene = depict(facts, rng);
                b = Depiction { scene: wrongly(facts, rng), quality: a.quality };
                if rng.chance(0.5) {
                    std::mem::swap(&mut a, &mut b);
                }
            }
            1 => b.scene = a.scene.clone(),
            _ => {}
        }
        let lenient = 0.5 * rng.normal();
        [a, b].map(|picture| {
            let consensus = self.rating(facts, &picture.scene, &picture.quality);
            let rating = (consensus + lenient + 0.5 * rng.normal()).clamp(1.0, 10.0);
            RatedPicture { prompt: prompt.clone(), picture, rating, consensus }
        })
    }

    /// A prompt that says how many, a picture with that number of objects, and one with another number,
    /// drawn equally well and otherwise to the same facts.
    pub fn sample_miscounted(&self, rng: &mut WorldRng) -> (PocketPrompt, Depiction, Depiction) {
        loop {
            let prompt = self.sample_prompt(rng);
            if let Some(scene) = depict_miscounted(&prompt.facts, rng) {
                let quality = sample_training_example(rng).quality;
                let right = Depiction { scene: depict(&prompt.facts, rng), quality };
                return (prompt, right, Depiction { scene, quality });
            }
        }
    }
}

/// Something else than asked for; half the time, where a number was asked for, another number of it.
fn wrongly(facts: &[Fact], rng: &mut WorldRng) -> Scene {
    let miscounted = if rng.chance(0.5) { depict_miscounted(facts, rng) } else { None };
    miscounted.unwrap_or_else(|| depict_wrongly(facts, rng))
}

fn sample_depiction(facts: &[Fact], rng: &mut WorldRng) -> Depiction {
    let other = sample_training_example(rng);
    let scene = match rng.weighted(&[0.52, 0.44, 0.04]) {
        0 => depict(facts, rng),
        1 => depict_wrongly(facts, rng),
        _ => other.scene,
    };
    Depiction { scene, quality: other.quality }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_follow_utility_imperfectly() {
        for population in Population::ALL {
            let people = Annotators::new(population);
            let mut rng = WorldRng::stream(9, population as u64);
            let pairs: Vec<PreferencePair> =
                (0..4000).map(|_| people.sample_pair(&mut rng)).collect();
            let agree =
                pairs.iter().filter(|p| (p.margin > 0.0) == p.a_preferred).count() as f32 / 4000.0;
            let first = pairs.iter().filter(|p| p.a_preferred).count() as f32 / 4000.0;
            assert!((0.78..0.93).contains(&agree), "{population:?} {agree}");
            assert!((0.45..0.55).contains(&first), "{population:?} {first}");
        }
    }

    #[test]
    fn populations_disagree_and_aes_ignores_the_prompt() {
        let mut rng = WorldRng::new(10);
        let all = Population::ALL.map(Annotators::new);
        let mut same = [[0usize; 4]; 4];
        let n = 3000;
        for _ in 0..n {
            let p = all[3].sample_pair(&mut rng);
            let margins = all.map(|people| {
                let u = |d: &Depiction| people.utility(&p.prompt.facts, &d.scene, &d.quality);
                u(&p.a) - u(&p.b) > 0.0
            });
            for i in 0..4 {
                (0..4).for_each(|j| same[i][j] += usize::from(margins[i] == margins[j]));
            }
            let blind = all[2].utility(&[], &p.a.scene, &p.a.quality);
            assert_eq!(blind, all[2].utility(&p.prompt.facts, &p.a.scene, &p.a.quality));
        }
        for (i, row) in same.iter().enumerate() {
            for (j, agreed) in row.iter().enumerate().take(i) {
                let share = *agreed as f32 / n as f32;
                assert!((0.6..0.95).contains(&share), "{i} {j} {share}");
            }
        }
    }

    #[test]
    fn ratings_span_the_scale_and_follow_quality() {
        let people = Annotators::new(Population::Aes);
        let mut rng = WorldRng::new(11);
        let rated: Vec<RatedPicture> =
            (0..2000).flat_map(|_| people.sample_sitting(&mut rng)).collect();
        assert!(rated.iter().all(|r| (1.0..=10.0).contains(&r.rating)));
        assert!(rated.iter().any(|r| r.rating < 2.5) && rated.iter().any(|r| r.rating > 9.0));
        let mean = |v: &mut dyn Iterator<Item = f32>| {
            let all: Vec<f32> = v.collect();
            all.iter().sum::<f32>() / all.len() as f32
        };
        let good =
            mean(&mut rated.iter().filter(|r| r.picture.quality.mean() > 0.7).map(|r| r.rating));
        let poor =
            mean(&mut rated.iter().filter(|r| r.picture.quality.mean() < 0.3).map(|r| r.rating));
        assert!(good - poor > 3.0, "{good} {poor}");
    }

    #[test]
    fn readers_mind_a_wrong_number_more_than_a_little_blur() {
        let mut rng = WorldRng::new(13);
        for population in [Population::Hps, Population::Pick, Population::Ir] {
            let people = Annotators::new(population);
            for _ in 0..500 {
                let (prompt, right, wrong) = people.sample_miscounted(&mut rng);
                let judged = judge_scene(&wrong.scene, &prompt.facts);
                assert_eq!(judged.iter().filter(|ok| !**ok).count(), 1, "{prompt:?}");
                let mut blurred = right.quality;
                blurred.sharpness -= 0.3;
                let worth = |d: &Scene, q: &Quality| people.utility(&prompt.facts, d, q);
                assert!(worth(&right.scene, &blurred) > worth(&wrong.scene, &right.quality));
            }
        }
    }

    #[test]
    fn held_out_prompts_are_their_own() {
        let mut rng = WorldRng::new(12);
        let mut texts = |p: Population| -> std::collections::BTreeSet<String> {
            (0..500).map(|_| Annotators::new(p).sample_prompt(&mut rng).text).collect()
        };
        let held_out = texts(Population::Ir);
        for p in [Population::Hps, Population::Pick, Population::Aes] {
            assert!(held_out.is_disjoint(&texts(p)));
        }
    }
}
