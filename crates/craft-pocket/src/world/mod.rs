//! The pocket world: 64×64 RGB pictures of coloured shapes, and everything that is known about them.
//!
//! * [`scene`] says what is in a picture, [`quality`] how well it is drawn, [`render()`] turns both into pixels.
//! * [`caption`] writes captions whose style words correlate with quality, as captions on the web do.
//! * [`facts`] says what a text claims, [`parse`] recovers it from the text, [`mod@judge`] judges it: on a scene
//!   (truth) or, through [`checker`], on pixels.
//! * [`prompts()`] gives evaluation and training prompts in disjoint splits.
//! * [`annotators`] simulates four populations of people who compare pictures.
//!
//! Everything is a pure function of explicit seeds.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod annotators;
pub mod attributes;
pub mod caption;
pub mod checker;
pub mod depict;
pub mod facts;
pub mod judge;
pub mod parse;
pub mod prompts;
pub mod quality;
pub mod render;
pub mod rng;
pub mod scene;
mod segment;
mod shape_fit;
pub mod style;

pub use annotators::{Annotators, Population, PreferencePair, RatedPicture};
pub use caption::{EXPANSION_TEMPLATES, Example, sample_training_example, vocabulary};
pub use checker::{FactResult, check, look};
pub use depict::{Depiction, depict, depict_miscounted, depict_wrongly, neighbour};
pub use facts::{Fact, FactKind, Subject};
pub use judge::{Judged, Seen, View, fraction_right, judge, judge_scene};
pub use parse::parse_facts;
pub use prompts::{PocketPrompt, Split, prompts};
pub use quality::Quality;
pub use render::render;
pub use rng::WorldRng;
pub use scene::{Background, Colour, Look, Object, Relation, Scene, SceneKind, Shape, SizeClass};

/// Width and height of every picture in pixels.
pub const SIDE: usize = 64;
/// Bytes of a picture: RGB, row-major, eight bits a channel.
pub const IMAGE_BYTES: usize = SIDE * SIDE * 3;
