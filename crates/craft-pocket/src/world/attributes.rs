//! What objects and pictures can be: shapes, colours, sizes, backgrounds, relations, kinds.

use serde::{Deserialize, Serialize};

/// Outline of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shape {
    /// Disc.
    Circle,
    /// Square, turned a little.
    Square,
    /// Equilateral triangle pointing up, turned a little.
    Triangle,
    /// Five-pointed star, turned a little.
    Star,
}

/// Colour of an object: six saturated hues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Colour {
    /// Hue 0°.
    Red,
    /// Hue 29°.
    Orange,
    /// Hue 54°.
    Yellow,
    /// Hue 132°.
    Green,
    /// Hue 222°.
    Blue,
    /// Hue 283°.
    Purple,
}

/// Size class of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SizeClass {
    /// Radius about 7 pixels.
    Small,
    /// Radius about 12 pixels.
    Large,
}

/// Neutral background.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Background {
    /// About 244 of 255.
    White,
    /// About 128 of 255.
    Grey,
    /// About 16 of 255.
    Black,
}

/// Where the first object is as seen from the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Relation {
    /// The first is left of the second.
    LeftOf,
    /// The first is right of the second.
    RightOf,
    /// The first is above the second.
    Above,
    /// The first is below the second.
    Below,
}

/// Kind of a scene.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SceneKind {
    /// One object.
    Single,
    /// Two or three objects of one shape, colour and size.
    Count,
    /// Two different objects with a relation.
    Pair,
}

impl Shape {
    /// All shapes.
    pub const ALL: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Star];

    /// The noun.
    pub fn word(self) -> &'static str {
        ["circle", "square", "triangle", "star"][self as usize]
    }

    /// The noun in the plural.
    pub fn plural(self) -> &'static str {
        ["circles", "squares", "triangles", "stars"][self as usize]
    }

    /// Corners for radius 1 and angle 0 (y down), empty for the circle, whose radius is 1.
    pub(crate) fn corners(self) -> Vec<(f32, f32)> {
        let ring = |n: usize, start: f32, radius: fn(usize) -> f32| {
            (0..n)
                .map(|i| {
                    let a = start + std::f32::consts::TAU * i as f32 / n as f32;
                    (radius(i) * a.cos(), radius(i) * a.sin())
                })
                .collect()
        };
        let up = -std::f32::consts::FRAC_PI_2;
        match self {
            Self::Circle => Vec::new(),
            Self::Square => {
                ring(4, std::f32::consts::FRAC_PI_4, |_| 0.9 * std::f32::consts::SQRT_2)
            }
            Self::Triangle => ring(3, up, |_| 1.3),
            Self::Star => ring(10, up, |i| if i % 2 == 0 { 1.28 } else { 1.28 * 0.42 }),
        }
    }
}

impl Colour {
    /// All colours.
    pub const ALL: [Self; 6] =
        [Self::Red, Self::Orange, Self::Yellow, Self::Green, Self::Blue, Self::Purple];

    /// The adjective.
    pub fn word(self) -> &'static str {
        ["red", "orange", "yellow", "green", "blue", "purple"][self as usize]
    }

    /// Hue in degrees, saturation and value in 0..1.
    pub(crate) fn hsv(self) -> (f32, f32, f32) {
        [
            (0.0, 0.88, 0.88),
            (29.0, 0.95, 0.97),
            (54.0, 0.90, 0.97),
            (132.0, 0.76, 0.68),
            (222.0, 0.82, 0.90),
            (283.0, 0.72, 0.76),
        ][self as usize]
    }

    /// Largest deviation of the hue in degrees.
    pub(crate) fn hue_jitter(self) -> f32 {
        [4.0, 3.0, 3.0, 8.0, 6.0, 6.0][self as usize]
    }
}

impl SizeClass {
    /// Both classes.
    pub const ALL: [Self; 2] = [Self::Small, Self::Large];

    /// The first of its adjectives.
    pub fn word(self) -> &'static str {
        ["small", "large"][self as usize]
    }

    /// Range of radii in pixels at composition 1.
    pub(crate) fn radii(self) -> (f32, f32) {
        [(6.4, 7.4), (11.6, 12.8)][self as usize]
    }
}

impl Background {
    /// All backgrounds.
    pub const ALL: [Self; 3] = [Self::White, Self::Grey, Self::Black];

    /// The adjective.
    pub fn word(self) -> &'static str {
        ["white", "grey", "black"][self as usize]
    }

    /// Shade in 0..255 before jitter.
    pub(crate) fn shade(self) -> f32 {
        [244.0, 128.0, 16.0][self as usize]
    }
}

impl Relation {
    /// All relations.
    pub const ALL: [Self; 4] = [Self::LeftOf, Self::RightOf, Self::Above, Self::Below];

    /// The same fact seen from the other object.
    pub fn inverse(self) -> Self {
        match self {
            Self::LeftOf => Self::RightOf,
            Self::RightOf => Self::LeftOf,
            Self::Above => Self::Below,
            Self::Below => Self::Above,
        }
    }

    /// The plainest wording.
    pub fn words(self) -> &'static str {
        ["left of", "right of", "above", "below"][self as usize]
    }

    /// Direction from the second object to the first (y down).
    pub(crate) fn direction(self) -> (f32, f32) {
        [(-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)][self as usize]
    }

    /// Whether a first object displaced by (dx, dy) from the second fulfils it: on the right side, and
    /// displaced along this axis more than across it.
    pub fn holds(self, dx: f32, dy: f32) -> bool {
        let (ux, uy) = self.direction();
        let along = dx * ux + dy * uy;
        let across = (dx * uy - dy * ux).abs();
        along > 3.0 && along >= across
    }
}
