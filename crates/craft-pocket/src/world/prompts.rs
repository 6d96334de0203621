//! Plain prompts in disjoint splits.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::caption::{facts_of, names_two, prompt_caption};
use super::facts::{Fact, Subject};
use super::rng::WorldRng;
use super::scene::{Relation, Scene, SceneKind};

/// Which part of the prompts; the parts share no content, whatever the wording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// For drawing candidates and tuning.
    Train,
    /// For choosing settings.
    Select,
    /// For reporting.
    Eval,
}

/// A prompt without style words.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PocketPrompt {
    /// The text.
    pub text: String,
    /// `single`, `count` or `pair`.
    pub category: String,
    /// What the text claims.
    pub facts: Vec<Fact>,
}

impl PocketPrompt {
    /// A random prompt about a scene of any kind.
    pub fn random(rng: &mut WorldRng) -> Self {
        let scene = Scene::random(rng);
        Self::about(&scene, rng)
    }

    /// A random true prompt about a scene.
    pub fn about(scene: &Scene, rng: &mut WorldRng) -> Self {
        let text = prompt_caption(scene, rng);
        let facts = facts_of(&text);
        let category = match scene.kind {
            SceneKind::Single => "single",
            SceneKind::Count => "count",
            SceneKind::Pair => "pair",
        };
        Self { text, category: category.to_string(), facts }
    }

    /// The split that the content of this prompt belongs to: 60 % train, 13 % select, 27 % eval.
    pub fn split(&self) -> Split {
        match content_hash(&self.facts) % 100 {
            0..60 => Split::Train,
            60..73 => Split::Select,
            _ => Split::Eval,
        }
    }
}

/// Draws `n` prompts with different texts: of each ten, four single, two or three count, the rest pair.
/// The first k of n prompts are the prompts of a call for k. Fewer than `n` come back only where a split
/// has run out of texts, which takes thousands.
pub fn prompts(seed: u64, n: usize, split: Split) -> Vec<PocketPrompt> {
    const ROUND: [SceneKind; 20] = {
        use SceneKind::{Count as C, Pair as P, Single as S};
        [S, P, C, S, P, S, P, C, S, P, S, P, C, S, P, S, C, P, S, C]
    };
    let mut rng = WorldRng::stream(seed, 11 + split as u64);
    let mut texts = BTreeSet::new();
    let mut found = Vec::with_capacity(n);
    let mut misses = 0;
    while found.len() < n && misses < 20_000 {
        let scene = Scene::random_of(ROUND[found.len() % ROUND.len()], &mut rng);
        let prompt = PocketPrompt::about(&scene, &mut rng);
        if prompt.split() == split && texts.insert(prompt.text.clone()) {
            found.push(prompt);
            misses = 0;
        } else {
            misses += 1;
        }
    }
    found
}

/// Hash of the content: equal for paraphrases, and for "A left of B" and "B right of A".
fn content_hash(facts: &[Fact]) -> u64 {
    let mut facts = facts.to_vec();
    let backwards = facts
        .iter()
        .any(|f| matches!(f, Fact::Relation { relation: Relation::RightOf | Relation::Below }));
    if names_two(&facts) && backwards {
        for fact in &mut facts {
            match fact {
                Fact::Shape { of, .. } | Fact::Colour { of, .. } | Fact::Size { of, .. } => {
                    *of = if *of == Subject::First { Subject::Second } else { Subject::First };
                }
                Fact::Relation { relation } => *relation = relation.inverse(),
                _ => {}
            }
        }
    }
    facts.sort();
    fnv(&format!("{facts:?}"))
}

/// FNV-1a, with a final mix since its low bits alone are weak.
pub(crate) fn fnv(text: &str) -> u64 {
    let hash = text
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::parse_facts;

    #[test]
    fn splits_are_large_unique_and_disjoint_in_content() {
        let mut texts = BTreeSet::new();
        let mut contents = Vec::new();
        for (split, n) in [(Split::Train, 1500), (Split::Select, 240), (Split::Eval, 480)] {
            let found = prompts(7, n, split);
            assert_eq!(found.len(), n);
            assert_eq!(&prompts(7, 10, split)[..], &found[..10]);
            let mut here = BTreeSet::new();
            for p in &found {
                assert!(texts.insert(p.text.clone()), "{}", p.text);
                assert_eq!(parse_facts(&p.text).unwrap(), p.facts);
                here.insert(content_hash(&p.facts));
            }
            contents.push(here);
        }
        for i in 0..3 {
            for j in 0..i {
                assert!(contents[i].is_disjoint(&contents[j]));
            }
        }
    }

    #[test]
    fn wording_does_not_change_the_split() {
        let a = parse_facts("a red circle left of a blue star").unwrap();
        let b = parse_facts("a blue star on the right and a red circle on the left").unwrap();
        assert_eq!(content_hash(&a), content_hash(&b));
        let c = parse_facts("a red circle right of a blue star").unwrap();
        assert_ne!(content_hash(&a), content_hash(&c));
    }
}
