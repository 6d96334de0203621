//! Style words: each phrase is tied to quality axes with a direction, or to none.

use super::rng::WorldRng;

/// Mood of a phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mood {
    /// Names good quality.
    Good,
    /// Names poor quality.
    Bad,
    /// Says nothing about quality.
    Neutral,
}

/// Where in a sentence a phrase may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Before a noun ("a crisp picture of …") or after a comma.
    Adjective,
    /// After a comma only.
    Tail,
}

/// A style phrase.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StylePhrase {
    /// The words.
    pub text: &'static str,
    /// Where they may stand.
    pub form: Form,
    /// Mood.
    pub mood: Mood,
    /// Pull on the four quality axes, −1 (poor) to 1 (good).
    pub pull: [f32; 4],
}

const SHARP: [f32; 4] = [1.0, 0.0, 0.0, 0.0];
const VIVID: [f32; 4] = [0.0, 1.0, 0.0, 0.0];
const CLEAN: [f32; 4] = [0.0, 0.0, 1.0, 0.0];
const CENTRED: [f32; 4] = [0.0, 0.0, 0.0, 1.0];
const ALL_ROUND: [f32; 4] = [0.75, 0.75, 0.75, 0.75];
const NONE: [f32; 4] = [0.0; 4];

const fn good(text: &'static str, form: Form, pull: [f32; 4]) -> StylePhrase {
    StylePhrase { text, form, mood: Mood::Good, pull }
}

const fn bad(text: &'static str, form: Form, pull: [f32; 4]) -> StylePhrase {
    let [a, b, c, d] = pull;
    StylePhrase { text, form, mood: Mood::Bad, pull: [-a, -b, -c, -d] }
}

const fn neutral(text: &'static str, form: Form) -> StylePhrase {
    StylePhrase { text, form, mood: Mood::Neutral, pull: NONE }
}

use Form::{Adjective as A, Tail as T};

/// Every style phrase of the captions.
pub const STYLE_PHRASES: [StylePhrase; 58] = [
    good("crisp", A, SHARP),
    good("sharp", A, SHARP),
    good("clear", A, SHARP),
    good("in sharp focus", T, SHARP),
    good("with sharp edges", T, SHARP),
    good("vivid", A, VIVID),
    good("saturated", A, VIVID),
    good("colourful", A, VIVID),
    good("rich colours", T, VIVID),
    good("bold colours", T, VIVID),
    good("clean", A, CLEAN),
    good("uncluttered", A, CLEAN),
    good("tidy", A, CLEAN),
    good("plain backdrop", T, CLEAN),
    good("nothing else around", T, CLEAN),
    good("centred", A, CENTRED),
    good("balanced", A, CENTRED),
    good("well composed", A, CENTRED),
    good("well framed", A, CENTRED),
    good("in the middle", T, CENTRED),
    good("high quality", A, ALL_ROUND),
    good("professional", A, ALL_ROUND),
    good("best quality", T, ALL_ROUND),
    good("polished", A, [0.6, 0.4, 0.6, 0.2]),
    good("studio", A, [0.3, 0.3, 0.6, 0.6]),
    bad("blurry", A, SHARP),
    bad("fuzzy", A, SHARP),
    bad("soft", A, SHARP),
    bad("out of focus", T, SHARP),
    bad("with smeared edges", T, SHARP),
    bad("faded", A, VIVID),
    bad("pale", A, VIVID),
    bad("dull", A, VIVID),
    bad("washed out", A, VIVID),
    bad("weak colours", T, VIVID),
    bad("cluttered", A, CLEAN),
    bad("messy", A, CLEAN),
    bad("dirty", A, CLEAN),
    bad("with scribbles", T, CLEAN),
    bad("marks all around", T, CLEAN),
    bad("off centre", A, CENTRED),
    bad("poorly framed", A, CENTRED),
    bad("badly cropped", A, CENTRED),
    bad("off to the side", T, CENTRED),
    bad("near the edge", T, CENTRED),
    bad("low quality", A, ALL_ROUND),
    bad("amateur", A, ALL_ROUND),
    bad("worst quality", T, ALL_ROUND),
    bad("old", A, [0.4, 0.8, 0.3, 0.0]),
    bad("rough", A, [0.5, 0.2, 0.7, 0.2]),
    neutral("cute", A),
    neutral("simple", A),
    neutral("nice", A),
    neutral("funny", A),
    neutral("modern", A),
    neutral("by hand", T),
    neutral("for children", T),
    neutral("in my style", T),
];

/// Nouns of a picture with their pull on the axes.
pub const PICTURE_NOUNS: [(&str, [f32; 4]); 6] = [
    ("picture", NONE),
    ("drawing", NONE),
    ("image", NONE),
    ("illustration", NONE),
    ("photo", NONE),
    ("snapshot", [-0.3, -0.3, -0.4, -0.6]),
];

impl StylePhrase {
    /// A phrase of a mood, all equally likely.
    pub fn random(mood: Mood, rng: &mut WorldRng) -> Self {
        loop {
            let phrase = rng.pick(&STYLE_PHRASES);
            if phrase.mood == mood {
                return phrase;
            }
        }
    }
}
