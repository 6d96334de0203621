//! Captions: a small grammar with paraphrases, plain and with style words, and the training distribution.

use std::collections::BTreeSet;

use super::facts::{Fact, Subject};
use super::parse::{LARGE_WORDS, SMALL_WORDS, parse_facts};
use super::quality::Quality;
use super::rng::WorldRng;
use super::scene::{Background, Look, Relation, Scene, SceneKind, SizeClass};
use super::style::{Form, Mood, PICTURE_NOUNS, STYLE_PHRASES, StylePhrase};

/// The built-in wordings of the template expander (TOML: `[[template]]` with `text`, optional `replace`).
pub const EXPANSION_TEMPLATES: &str = include_str!("../../templates.toml");

/// Most words of a caption.
pub const MAX_WORDS: usize = 24;

/// One training example of the base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// What is in the picture.
    pub scene: Scene,
    /// How well it is drawn.
    pub quality: Quality,
    /// Lower-case caption of at most [`MAX_WORDS`] words.
    pub caption: String,
}

impl Example {
    /// The picture, `64 * 64 * 3` bytes.
    pub fn render(&self) -> Vec<u8> {
        super::render(&self.scene, &self.quality)
    }
}

/// Draws a training example: 45 % plain captions with broad quality; 55 % captions with one to three style
/// phrases, where the axes that the words name lie near the named end nine times in ten and the others
/// are pulled a little the same way.
pub fn sample_training_example(rng: &mut WorldRng) -> Example {
    let scene = Scene::random(rng);
    if rng.chance(0.45) {
        let quality = Quality::sample_broad(rng);
        let caption = plain_caption(&scene, rng);
        return Example { scene, quality, caption };
    }
    let style = Style::random(rng);
    let quality = style.quality(rng);
    let mut caption = style.caption(&plain_caption(&scene, rng), rng);
    for _ in 0..8 {
        if caption.split_whitespace().count() <= MAX_WORDS {
            break;
        }
        caption = style.caption(&plain_caption(&scene, rng), rng);
    }
    Example { scene, quality, caption }
}

/// The style words of one caption.
struct Style {
    phrases: Vec<StylePhrase>,
    noun: Option<usize>,
}

impl Style {
    fn random(rng: &mut WorldRng) -> Self {
        let how_many = 1 + rng.weighted(&[0.45, 0.38, 0.17]);
        let mood = rng.weighted(&[0.52, 0.32, 0.16]);
        let mut phrases: Vec<StylePhrase> = Vec::new();
        for _ in 0..20 {
            if phrases.len() == how_many {
                break;
            }
            let mood = match (mood, rng.uniform()) {
                (0, u) if u < 0.9 => Mood::Good,
                (1, u) if u < 0.9 => Mood::Bad,
                (2, u) if u < 0.3 => Mood::Good,
                (2, u) if u < 0.5 => Mood::Bad,
                _ => Mood::Neutral,
            };
            let phrase = StylePhrase::random(mood, rng);
            let named = |p: &StylePhrase| p.pull.map(|v| v.abs() > 0.7);
            let clash = phrases.iter().any(|p| {
                p.text == phrase.text || named(p).iter().zip(named(&phrase)).any(|(a, b)| *a && b)
            });
            if !clash {
                phrases.push(phrase);
            }
        }
        let noun = if rng.chance(0.5) {
            Some(rng.weighted(&[0.28, 0.17, 0.17, 0.14, 0.12, 0.12]))
        } else {
            None
        };
        Self { phrases, noun }
    }

    /// Quality as these words suggest it, imperfectly.
    fn quality(&self, rng: &mut WorldRng) -> Quality {
        let mut pull = [0.0f32; 4];
        for p in &self.phrases {
            (0..4).for_each(|a| pull[a] += p.pull[a]);
        }
        if let Some(noun) = self.noun {
            (0..4).for_each(|a| pull[a] += PICTURE_NOUNS[noun].1[a]);
        }
        let overall = (pull.iter().sum::<f32>() / 4.0).clamp(-1.0, 1.0);
        let broad = Quality::sample_broad(rng).to_array();
        let mut axes = [0.0; 4];
        for a in 0..4 {
            let strength = pull[a].clamp(-1.0, 1.0);
            axes[a] = if rng.chance(0.9 * strength.abs()) {
                Quality::sample_near_end(strength > 0.0, rng)
            } else {
                broad[a] + 0.2 * overall
            };
        }
        Quality::from_array(axes)
    }

    fn caption(&self, plain: &str, rng: &mut WorldRng) -> String {
        let mut front: Vec<&str> = Vec::new();
        let mut tail: Vec<&str> = Vec::new();
        for p in &self.phrases {
            let before = p.form == Form::Adjective
                && front.len() < 2
                && self.noun.is_some()
                && rng.chance(0.8);
            if before { front.push(p.text) } else { tail.push(p.text) }
        }
        let mut text = String::new();
        if let Some(noun) = self.noun {
            let joined = front.join([" ", ", ", " and "][rng.below(3)]);
            let phrase = format!("{joined} {}", PICTURE_NOUNS[noun].0);
            let phrase = phrase.trim();
            text = format!("{} {phrase} of ", article(phrase));
        }
        text.push_str(plain);
        match tail.as_slice() {
            [a, b] if rng.chance(0.4) => text.push_str(&format!(", {a} and {b}")),
            many => many.iter().for_each(|t| {
                text.push_str(", ");
                text.push_str(t);
            }),
        }
        text
    }
}

fn article(word: &str) -> &'static str {
    if word.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// A plain caption of a scene: true, no style words; size, background and (of pairs, one time in six) the
/// relation are mentioned or not.
pub fn plain_caption(scene: &Scene, rng: &mut WorldRng) -> String {
    let related = !rng.chance(1.0 / 6.0);
    describe(scene, related, rng)
}

/// A plain caption that names the relation of a pair.
pub(crate) fn prompt_caption(scene: &Scene, rng: &mut WorldRng) -> String {
    describe(scene, true, rng)
}

fn describe(scene: &Scene, related: bool, rng: &mut WorldRng) -> String {
    let Some(first) = scene.objects.first().map(|o| o.look) else {
        return String::new();
    };
    let text = match (scene.kind, scene.objects.get(1)) {
        (SceneKind::Pair, Some(second)) => {
            pair_text(first, second.look, scene.relation, related, rng)
        }
        (SceneKind::Count, Some(_)) => count_text(first, scene.objects.len(), rng),
        _ => single_text(first, rng),
    };
    if rng.chance(0.35) { with_background(&text, scene.background, rng) } else { text }
}

fn with_background(text: &str, background: Background, rng: &mut WorldRng) -> String {
    let word = background.word();
    match rng.weighted(&[0.45, 0.2, 0.2, 0.15]) {
        0 => format!("{text} on a {word} background"),
        1 => format!("{text} on {word}"),
        2 => format!("{text} against a {word} background"),
        _ => format!("{text}, {word} background"),
    }
}

fn size_word(size: SizeClass, rng: &mut WorldRng) -> &'static str {
    let words = if size == SizeClass::Small { SMALL_WORDS } else { LARGE_WORDS };
    words[rng.weighted(&[0.6, 0.25, 0.15])]
}

/// "small red circle", "red circle", "circle that is red"; without its article.
fn noun_phrase(look: Look, plural: bool, mention_size: bool, rng: &mut WorldRng) -> String {
    let size = if mention_size { format!("{} ", size_word(look.size, rng)) } else { String::new() };
    let noun = if plural { look.shape.plural() } else { look.shape.word() };
    let colour = look.colour.word();
    match rng.weighted(&[0.8, 0.12, 0.08]) {
        0 => format!("{size}{colour} {noun}"),
        1 => format!("{size}{noun} that {} {colour}", if plural { "are" } else { "is" }),
        _ => format!("{size}{noun} in {colour}"),
    }
}

fn single_text(look: Look, rng: &mut WorldRng) -> String {
    let mention = rng.chance(0.35);
    let noun = noun_phrase(look, false, mention, rng);
    let determined = match rng.weighted(&[0.75, 0.15, 0.10]) {
        0 => format!("{} {noun}", article(&noun)),
        1 => format!("one {noun}"),
        _ => format!("a single {noun}"),
    };
    frame(&determined, rng)
}

fn count_text(look: Look, count: usize, rng: &mut WorldRng) -> String {
    let mention = rng.chance(0.3);
    let noun = noun_phrase(look, true, mention, rng);
    let determined = match (count, rng.weighted(&[0.75, 0.15, 0.10])) {
        (2, 1) => format!("a pair of {noun}"),
        (2, 2) => format!("exactly two {noun}"),
        (2, _) => format!("two {noun}"),
        (_, 1) => format!("a group of three {noun}"),
        (_, 2) => format!("exactly three {noun}"),
        _ => format!("three {noun}"),
    };
    frame(&determined, rng)
}

/// Words in front; all of them leave a noun phrase, so that "a picture of …" can be put before it.
fn frame(determined: &str, rng: &mut WorldRng) -> String {
    match rng.weighted(&[0.8, 0.1, 0.1]) {
        0 => determined.to_string(),
        1 => format!("just {determined}"),
        _ => format!("only {determined}"),
    }
}

fn pair_text(
    first: Look,
    second: Look,
    relation: Option<Relation>,
    related: bool,
    rng: &mut WorldRng,
) -> String {
    let swap = rng.chance(0.5);
    let (a, b) = if swap { (second, first) } else { (first, second) };
    let mut named = |look: Look| {
        let size = if rng.chance(0.25) {
            format!("{} ", size_word(look.size, rng))
        } else {
            String::new()
        };
        let noun = format!("{size}{} {}", look.colour.word(), look.shape.word());
        format!("{} {noun}", article(&noun))
    };
    let (a, b) = (named(a), named(b));
    let Some(relation) = relation.filter(|_| related) else {
        return match rng.weighted(&[0.4, 0.35, 0.25]) {
            0 => format!("{a} next to {b}"),
            1 => format!("{a} and {b}"),
            _ => format!("{a} beside {b}"),
        };
    };
    let relation = if swap { relation.inverse() } else { relation };
    let (words, here, there) = match relation {
        Relation::LeftOf => {
            (["left of", "to the left of", "on the left of"], "on the left", "on the right")
        }
        Relation::RightOf => {
            (["right of", "to the right of", "on the right of"], "on the right", "on the left")
        }
        Relation::Above => (["above", "over", "above"], "at the top", "at the bottom"),
        Relation::Below => (["below", "under", "beneath"], "at the bottom", "at the top"),
    };
    if rng.chance(0.85) {
        format!("{a} {} {b}", words[rng.weighted(&[0.5, 0.3, 0.2])])
    } else {
        format!("{a} {here} and {b} {there}")
    }
}

/// The facts that a caption of ours says; empty where it names no object.
pub(crate) fn facts_of(text: &str) -> Vec<Fact> {
    parse_facts(text).unwrap_or_default()
}

/// Whether two objects are named.
pub(crate) fn names_two(facts: &[Fact]) -> bool {
    facts.iter().any(|f| matches!(f, Fact::Shape { of: Subject::Second, .. }))
}

const FUNCTION_WORDS: &str = "a an the of one two three single pair group exactly that is are in on at against \
    background just only next to beside and left right above over below under beneath top bottom";

/// Every word of the captions and expansion templates, sorted; commas stand beside words as a token of
/// their own.
pub fn vocabulary() -> Vec<String> {
    let mut words: BTreeSet<&str> = FUNCTION_WORDS.split_whitespace().collect();
    words.extend(super::Shape::ALL.iter().flat_map(|s| [s.word(), s.plural()]));
    words.extend(super::Colour::ALL.iter().map(|c| c.word()));
    words.extend(Background::ALL.iter().map(|b| b.word()));
    words.extend(SMALL_WORDS.iter().chain(&LARGE_WORDS));
    words.extend(PICTURE_NOUNS.iter().map(|(noun, _)| *noun));
    words.extend(STYLE_PHRASES.iter().flat_map(|p| p.text.split_whitespace()));
    words.into_iter().map(str::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::judge_scene;

    fn tokens(text: &str) -> impl Iterator<Item = &str> {
        text.split(|c: char| !c.is_alphanumeric()).filter(|t| !t.is_empty())
    }

    #[test]
    fn captions_are_true_short_and_in_the_vocabulary() {
        let words = vocabulary();
        let mut rng = WorldRng::new(5);
        for _ in 0..20_000 {
            let e = sample_training_example(&mut rng);
            assert!(e.caption.split_whitespace().count() <= MAX_WORDS, "{}", e.caption);
            assert_eq!(e.caption, e.caption.to_lowercase());
            for t in tokens(&e.caption) {
                assert!(words.iter().any(|w| w == t), "{t} of {:?}", e.caption);
            }
            let facts = parse_facts(&e.caption).unwrap();
            assert!(
                judge_scene(&e.scene, &facts).iter().all(|ok| *ok),
                "{:?} {facts:?} {:?}",
                e.caption,
                e.scene
            );
            let least = if e.scene.kind == SceneKind::Pair { 4 } else { 3 };
            assert!(facts.len() >= least, "{:?} {facts:?}", e.caption);
        }
    }

    #[test]
    fn words_correlate_with_their_axis_imperfectly() {
        let mut rng = WorldRng::new(6);
        let mut crisp = Vec::new();
        let mut blurry = Vec::new();
        for _ in 0..40_000 {
            let e = sample_training_example(&mut rng);
            if e.caption.contains("crisp") {
                crisp.push(e.quality.sharpness);
            } else if e.caption.contains("blurry") {
                blurry.push(e.quality.sharpness);
            }
        }
        let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
        assert!(crisp.len() > 300 && blurry.len() > 150);
        assert!(mean(&crisp) > 0.8 && mean(&blurry) < 0.2, "{} {}", mean(&crisp), mean(&blurry));
        assert!(crisp.iter().any(|s| *s < 0.4));
    }

    #[test]
    fn templates_stay_in_the_vocabulary() {
        let words = vocabulary();
        let table: toml::Table = EXPANSION_TEMPLATES.parse().unwrap();
        let templates = table["template"].as_array().unwrap();
        assert!(templates.len() >= 38, "{}", templates.len());
        let mut seen = BTreeSet::new();
        for template in templates {
            let text = template["text"].as_str().unwrap();
            assert!(text.contains("{prompt}"));
            let replace =
                template.get("replace").map(|r| r.as_array().unwrap().clone()).unwrap_or_default();
            assert!(seen.insert((text.to_string(), format!("{replace:?}"))), "twice: {text}");
            let mut said = text.replace("{prompt}", "");
            for pair in replace {
                for side in pair.as_array().unwrap() {
                    said.push_str(&format!(" {}", side.as_str().unwrap()));
                }
            }
            for t in tokens(&said) {
                assert!(words.iter().any(|w| w == t), "{t} of {text:?}");
            }
        }
    }
}
