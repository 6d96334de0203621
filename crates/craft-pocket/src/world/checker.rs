//! Finds the facts of a prompt in the pixels.

use serde::{Deserialize, Serialize};

use super::IMAGE_BYTES;
use super::facts::{Fact, FactKind};
use super::judge::{Seen, View, judge};
use super::scene::{Background, Colour, SizeClass};
use super::segment::{Blob, segment};
use super::shape_fit::fit;

/// Radius in pixels from which an object is large; small ones end at 7.4, large ones begin at 10.1.
const LARGE_FROM: f32 = 8.8;
/// Luminance between grey and white, and between black and grey.
const WHITE_FROM: f32 = 151.0;
const BLACK_UP_TO: f32 = 106.0;
/// Radius in pixels below which a blob is a stain; small objects begin at 5.5.
const LEAST_RADIUS: f32 = 4.2;
/// Fits below this are no object.
const LEAST_OVERLAP: f32 = 0.35;

/// A fact and whether the pixels show it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactResult {
    /// Kind, for tables.
    pub kind: FactKind,
    /// The fact as a sentence.
    pub text: String,
    /// The fact.
    pub fact: Fact,
    /// Whether the picture shows it.
    pub passed: bool,
}

/// Checks the facts of one prompt on an image of 64 × 64 RGB bytes, row-major. An image of another length
/// shows none of them.
pub fn check(image: &[u8], facts: &[Fact]) -> Vec<FactResult> {
    let judged = look(image).map_or_else(|| vec![false; facts.len()], |view| judge(&view, facts));
    facts
        .iter()
        .zip(judged)
        .map(|(fact, passed)| FactResult {
            kind: fact.kind(),
            text: fact.describe(facts),
            fact: *fact,
            passed,
        })
        .collect()
}

/// What the checker sees in an image of 64 × 64 RGB bytes; none where the length is another.
pub fn look(image: &[u8]) -> Option<View> {
    if image.len() != IMAGE_BYTES {
        return None;
    }
    let segments = segment(image);
    let background = if segments.background >= WHITE_FROM {
        Background::White
    } else if segments.background <= BLACK_UP_TO {
        Background::Black
    } else {
        Background::Grey
    };
    Some(View { objects: segments.blobs.iter().filter_map(see).collect(), background })
}

fn see(blob: &Blob) -> Option<Seen> {
    let fit = fit(blob);
    (fit.overlap >= LEAST_OVERLAP && fit.radius >= LEAST_RADIUS).then(|| Seen {
        shape: fit.shape,
        colour: nearest_colour(blob.hue),
        size: if fit.radius >= LARGE_FROM { SizeClass::Large } else { SizeClass::Small },
        x: fit.x,
        y: fit.y,
    })
}

/// The colour whose hue is nearest.
pub(super) fn nearest_colour(hue: f32) -> Colour {
    let apart = |c: Colour| {
        let d = (hue - c.hsv().0).rem_euclid(360.0);
        d.min(360.0 - d)
    };
    Colour::ALL
        .into_iter()
        .fold(Colour::Red, |best, c| if apart(c) < apart(best) { c } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{PocketPrompt, Quality, Scene, WorldRng, judge_scene, render};

    #[test]
    fn clean_renderings_are_read_without_error() {
        let mut rng = WorldRng::new(21);
        let (mut wrong, mut all) = (0, 0);
        for _ in 0..1500 {
            let scene = Scene::random(&mut rng);
            let facts = PocketPrompt::about(&scene, &mut rng).facts;
            let results = check(&render(&scene, &Quality::BEST), &facts);
            wrong += results.iter().filter(|r| !r.passed).count();
            all += results.len();
        }
        assert!(wrong * 100 < all, "{wrong} of {all}");
    }

    #[test]
    fn claims_about_other_pictures_fail() {
        let mut rng = WorldRng::new(22);
        let (mut wrong, mut all) = (0, 0);
        for _ in 0..1500 {
            let scene = Scene::random(&mut rng);
            let facts = PocketPrompt::random(&mut rng).facts;
            let results = check(&render(&scene, &Quality::even(0.8)), &facts);
            wrong += results
                .iter()
                .zip(judge_scene(&scene, &facts))
                .filter(|(r, t)| r.passed != *t)
                .count();
            all += results.len();
        }
        assert!(wrong * 100 < all, "{wrong} of {all}");
    }

    #[test]
    fn poor_renderings_are_mostly_read() {
        let mut rng = WorldRng::new(23);
        let (mut wrong, mut all) = (0, 0);
        for _ in 0..600 {
            let scene = Scene::random(&mut rng);
            let facts = PocketPrompt::about(&scene, &mut rng).facts;
            let results = check(&render(&scene, &Quality::even(0.25)), &facts);
            wrong += results.iter().filter(|r| !r.passed).count();
            all += results.len();
        }
        assert!(wrong * 25 < all, "{wrong} of {all}");
    }

    #[test]
    fn empty_and_odd_images_pass_nothing() {
        let facts = crate::world::parse_facts("two small red circles").unwrap_or_default();
        for image in [vec![128; IMAGE_BYTES], vec![0; 17], vec![255; IMAGE_BYTES]] {
            assert!(check(&image, &facts).iter().all(|r| !r.passed));
        }
        let noise: Vec<u8> =
            (0..IMAGE_BYTES).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_eq!(check(&noise, &facts).len(), facts.len());
    }
}
