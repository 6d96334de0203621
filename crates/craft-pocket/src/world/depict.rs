//! Scenes that show what a text says, or something a little else.

use serde::{Deserialize, Serialize};

use super::caption::{Example, facts_of, plain_caption};
use super::facts::{Fact, Subject};
use super::judge::judge_scene;
use super::quality::Quality;
use super::rng::WorldRng;
use super::scene::{Background, Colour, Look, Relation, Scene, Shape, SizeClass};

/// A picture that has not been drawn yet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Depiction {
    /// What it shows.
    pub scene: Scene,
    /// How well it is drawn.
    pub quality: Quality,
}

impl Depiction {
    /// The picture, `64 * 64 * 3` bytes.
    pub fn render(&self) -> Vec<u8> {
        super::render(&self.scene, &self.quality)
    }
}

/// A scene in which the facts of one text hold; what they leave open is drawn at random.
pub fn depict(facts: &[Fact], rng: &mut WorldRng) -> Scene {
    let mut first = Look::random(rng);
    let mut second = Look::random(rng);
    let mut background = rng.pick(&Background::ALL);
    let mut relation = rng.pick(&Relation::ALL);
    let (mut count, mut two) = (None, false);
    for fact in facts {
        let is_second = |of: Subject| of == Subject::Second;
        match *fact {
            Fact::Shape { of, shape } => {
                two |= is_second(of);
                if is_second(of) { second.shape = shape } else { first.shape = shape }
            }
            Fact::Colour { of, colour } => {
                two |= is_second(of);
                if is_second(of) { second.colour = colour } else { first.colour = colour }
            }
            Fact::Size { of, size } => {
                two |= is_second(of);
                if is_second(of) { second.size = size } else { first.size = size }
            }
            Fact::Count { count: said } => count = Some(usize::from(said)),
            Fact::Relation { relation: said } => (relation, two) = (said, true),
            Fact::Background { background: said } => background = said,
        }
    }
    if two {
        return Scene::pair(first, second, relation, background, rng);
    }
    let each = facts.iter().any(|f| matches!(f, Fact::Shape { of: Subject::Each, .. }));
    Scene::counted(first, count.unwrap_or(if each { 2 } else { 1 }), background, rng)
}

/// A scene in which at least one fact of the text does not hold: facts altered, colours exchanged between
/// two objects, an object too many or one missing. Equals [`depict`] where there are no facts.
pub fn depict_wrongly(facts: &[Fact], rng: &mut WorldRng) -> Scene {
    for _ in 0..32 {
        let scene = depict_otherwise(facts, rng);
        if judge_scene(&scene, facts).contains(&false) {
            return scene;
        }
    }
    depict(facts, rng)
}

fn depict_otherwise(facts: &[Fact], rng: &mut WorldRng) -> Scene {
    let two = facts.iter().any(|f| matches!(f, Fact::Shape { of: Subject::Second, .. }));
    let mut altered = facts.to_vec();
    match (two, rng.weighted(&[0.12, 0.16, 0.72])) {
        // One of two objects is missing.
        (true, 0) => {
            let keep = if rng.chance(0.5) { Subject::First } else { Subject::Second };
            altered.retain(|f| match f {
                Fact::Shape { of, .. } | Fact::Colour { of, .. } | Fact::Size { of, .. } => {
                    *of == keep
                }
                Fact::Relation { .. } => false,
                _ => true,
            });
            for fact in &mut altered {
                if let Fact::Shape { of, .. } | Fact::Colour { of, .. } | Fact::Size { of, .. } =
                    fact
                {
                    *of = Subject::First;
                }
            }
        }
        // The colours are exchanged.
        (true, 1) => {
            for fact in &mut altered {
                if let Fact::Colour { of, .. } = fact {
                    *of = if *of == Subject::First { Subject::Second } else { Subject::First };
                }
            }
        }
        // An object too many.
        (false, 0) if altered.contains(&Fact::Count { count: 1 }) => {
            altered.push(Fact::Shape { of: Subject::Second, shape: rng.pick(&Shape::ALL) });
        }
        _ => {
            let wrong = if altered.len() > 2 && rng.chance(0.3) { 2 } else { 1 };
            for _ in 0..wrong {
                let i = rng.below(altered.len());
                if let Some(fact) = altered.get_mut(i) {
                    *fact = alter(*fact, rng);
                }
            }
        }
    }
    depict(&altered, rng)
}

/// A scene to the facts of the text but for the number of objects, which is another one from one to three;
/// none where the text names no number.
pub fn depict_miscounted(facts: &[Fact], rng: &mut WorldRng) -> Option<Scene> {
    let at = facts.iter().position(|f| matches!(f, Fact::Count { .. }))?;
    let mut altered = facts.to_vec();
    altered[at] = alter(altered[at], rng);
    Some(depict(&altered, rng))
}

/// A captioned picture that differs from `example` in one fact, drawn equally well: in the number of objects
/// for half of those whose caption names one. What its plain caption leaves open is drawn anew.
pub fn neighbour(example: &Example, rng: &mut WorldRng) -> Example {
    let facts = facts_of(&example.caption);
    let miscounted = if rng.chance(0.5) { depict_miscounted(&facts, rng) } else { None };
    let scene = miscounted.unwrap_or_else(|| {
        let mut altered = facts.clone();
        let i = rng.below(altered.len().max(1));
        if let Some(fact) = altered.get_mut(i) {
            *fact = alter(*fact, rng);
        }
        depict(&altered, rng)
    });
    let caption = plain_caption(&scene, rng);
    Example { scene, quality: example.quality, caption }
}

/// Another fact of the same kind about the same object.
fn alter(fact: Fact, rng: &mut WorldRng) -> Fact {
    loop {
        let other = match fact {
            Fact::Shape { of, .. } => Fact::Shape { of, shape: rng.pick(&Shape::ALL) },
            Fact::Colour { of, .. } => Fact::Colour { of, colour: rng.pick(&Colour::ALL) },
            Fact::Size { of, .. } => Fact::Size { of, size: rng.pick(&SizeClass::ALL) },
            Fact::Count { .. } => Fact::Count { count: 1 + rng.below(3) as u8 },
            Fact::Relation { relation } if rng.chance(0.5) => {
                Fact::Relation { relation: relation.inverse() }
            }
            Fact::Relation { .. } => Fact::Relation { relation: rng.pick(&Relation::ALL) },
            Fact::Background { .. } => Fact::Background { background: rng.pick(&Background::ALL) },
        };
        if other != fact {
            return other;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{FactKind, PocketPrompt, sample_training_example};

    #[test]
    fn depictions_are_true_and_wrong_ones_are_not() {
        let mut rng = WorldRng::new(8);
        for _ in 0..5000 {
            let prompt = PocketPrompt::random(&mut rng);
            let right = judge_scene(&depict(&prompt.facts, &mut rng), &prompt.facts);
            assert!(right.iter().all(|ok| *ok), "{prompt:?}");
            let wrong = judge_scene(&depict_wrongly(&prompt.facts, &mut rng), &prompt.facts);
            assert!(wrong.contains(&false), "{prompt:?}");
        }
    }
    #[test]
    fn neighbours_differ_in_one_fact_and_say_so() {
        let mut rng = WorldRng::new(14);
        let mut counted = 0;
        for _ in 0..5000 {
            let example = sample_training_example(&mut rng);
            let facts = facts_of(&example.caption);
            let other = neighbour(&example, &mut rng);
            assert_eq!(other.quality, example.quality);
            let judged = judge_scene(&other.scene, &facts);
            assert!(judged.contains(&false), "{example:?} {other:?}");
            let own = judge_scene(&other.scene, &facts_of(&other.caption));
            assert!(own.iter().all(|ok| *ok), "{other:?}");
            let wrong = facts.iter().zip(&judged).filter(|(_, ok)| !**ok);
            counted += usize::from(wrong.map(|(f, _)| f.kind()).eq([FactKind::Count]));
        }
        assert!((1500..3000).contains(&counted), "{counted}");
    }
}
