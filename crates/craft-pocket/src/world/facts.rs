//! What a text claims about a picture.

use serde::{Deserialize, Serialize};

use super::attributes::{Background, Colour, Relation, Shape, SizeClass};

/// Which object of a text a fact is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The object named first.
    First,
    /// The object named second.
    Second,
    /// Every one of the counted objects.
    Each,
}

/// One claim of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fact {
    /// An object has this outline.
    Shape {
        /// Which object.
        of: Subject,
        /// Its outline.
        shape: Shape,
    },
    /// An object has this colour.
    Colour {
        /// Which object.
        of: Subject,
        /// Its colour.
        colour: Colour,
    },
    /// An object is of this size class.
    Size {
        /// Which object.
        of: Subject,
        /// Its size class.
        size: SizeClass,
    },
    /// The picture has exactly this many objects.
    Count {
        /// How many.
        count: u8,
    },
    /// The first object is here as seen from the second.
    Relation {
        /// Where it is.
        relation: Relation,
    },
    /// The background has this shade.
    Background {
        /// Which shade.
        background: Background,
    },
}

/// The kind of a fact, for tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FactKind {
    /// [`Fact::Shape`].
    Shape,
    /// [`Fact::Colour`].
    Colour,
    /// [`Fact::Size`].
    Size,
    /// [`Fact::Count`].
    Count,
    /// [`Fact::Relation`].
    Relation,
    /// [`Fact::Background`].
    Background,
}

impl FactKind {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Shape, Self::Colour, Self::Size, Self::Count, Self::Relation, Self::Background];

    /// Its name as it stands in JSON.
    pub fn word(self) -> &'static str {
        ["shape", "colour", "size", "count", "relation", "background"][self as usize]
    }
}

impl Fact {
    /// The kind of this fact.
    pub fn kind(&self) -> FactKind {
        match self {
            Self::Shape { .. } => FactKind::Shape,
            Self::Colour { .. } => FactKind::Colour,
            Self::Size { .. } => FactKind::Size,
            Self::Count { .. } => FactKind::Count,
            Self::Relation { .. } => FactKind::Relation,
            Self::Background { .. } => FactKind::Background,
        }
    }

    /// A sentence such as "the circle is red"; `all` are the facts of the same text, which name the objects.
    pub fn describe(&self, all: &[Fact]) -> String {
        let name = |subject: Subject| {
            let noun = all.iter().find_map(|f| match f {
                Self::Shape { of, shape } if *of == subject => Some(*shape),
                _ => None,
            });
            let other = all.iter().find_map(|f| match f {
                Self::Shape { of, shape } if *of != subject => Some(*shape),
                _ => None,
            });
            match (noun, subject) {
                (Some(shape), Subject::Each) => shape.plural().to_string(),
                (None, Subject::Each) => "objects".to_string(),
                (Some(shape), Subject::First) if other == noun => format!("first {}", shape.word()),
                (Some(shape), Subject::Second) if other == noun => {
                    format!("second {}", shape.word())
                }
                (Some(shape), _) => shape.word().to_string(),
                (None, Subject::First) => "first object".to_string(),
                (None, Subject::Second) => "second object".to_string(),
            }
        };
        let verb = |of: Subject| if of == Subject::Each { "are" } else { "is" };
        match *self {
            Self::Shape { of: Subject::Each, shape } => {
                format!("the objects are {}", shape.plural())
            }
            Self::Shape { of: Subject::First, shape } => format!("there is a {}", shape.word()),
            Self::Shape { of: Subject::Second, shape } => {
                let same = all.contains(&Self::Shape { of: Subject::First, shape });
                format!("there is a {}{}", if same { "second " } else { "" }, shape.word())
            }
            Self::Colour { of, colour } => {
                format!("the {} {} {}", name(of), verb(of), colour.word())
            }
            Self::Size { of, size } => format!("the {} {} {}", name(of), verb(of), size.word()),
            Self::Count { count: 1 } => "there is exactly one object".to_string(),
            Self::Count { count } => format!("there are exactly {count} objects"),
            Self::Relation { relation } => {
                format!(
                    "the {} is {} the {}",
                    name(Subject::First),
                    relation.words(),
                    name(Subject::Second)
                )
            }
            Self::Background { background } => format!("the background is {}", background.word()),
        }
    }
}
