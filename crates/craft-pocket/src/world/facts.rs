//! What a text claims about a picture, and whether it is so.

use serde::{Deserialize, Serialize};

use super::scene::{Background, Colour, Relation, Scene, Shape, SizeClass};

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
                (Some(shape), Subject::Second) if other == noun => format!("second {}", shape.word()),
                (Some(shape), _) => shape.word().to_string(),
                (None, Subject::First) => "first object".to_string(),
                (None, Subject::Second) => "second object".to_string(),
            }
        };
        let verb = |of: Subject| if of == Subject::Each { "are" } else { "is" };
        match *self {
            Self::Shape { of: Subject::Each, shape } => format!("the objects are {}", shape.plural()),
            Self::Shape { of: Subject::First, shape } => format!("there is a {}", shape.word()),
            Self::Shape { of: Subject::Second, shape } => {
                let same = all.contains(&Self::Shape { of: Subject::First, shape });
                format!("there is a {}{}", if same { "second " } else { "" }, shape.word())
            }
            Self::Colour { of, colour } => format!("the {} {} {}", name(of), verb(of), colour.word()),
            Self::Size { of, size } => format!("the {} {} {}", name(of), verb(of), size.word()),
            Self::Count { count: 1 } => "there is exactly one object".to_string(),
            Self::Count { count } => format!("there are exactly {count} objects"),
            Self::Relation { relation } => {
                format!("the {} is {} the {}", name(Subject::First), relation.words(), name(Subject::Second))
            }
            Self::Background { background } => format!("the background is {}", background.word()),
        }
    }
}

/// One object as somebody (the truth or the checker) sees it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Outline.
    pub shape: Shape,
    /// Colour.
    pub colour: Colour,
    /// Size class.
    pub size: SizeClass,
    /// Centre in pixels from the left.
    pub x: f32,
    /// Centre in pixels from the top.
    pub y: f32,
}

/// A picture as somebody sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Objects in no particular order.
    pub objects: Vec<Seen>,
    /// Background.
    pub background: Background,
}

impl View {
    /// What is truly in a scene.
    pub fn of(scene: &Scene) -> Self {
        let see = |o: &super::Object| Seen {
            shape: o.look.shape,
            colour: o.look.colour,
            size: o.look.size,
            x: o.x,
            y: o.y,
        };
        Self { objects: scene.objects.iter().map(see).collect(), background: scene.background }
    }
}

/// For each fact whether it holds.
pub type Judged = Vec<bool>;

/// Judges facts on what a scene truly shows.
pub fn judge_scene(scene: &Scene, facts: &[Fact]) -> Judged {
    judge(&View::of(scene), facts)
}

/// Share of facts that hold; 1 where there are none.
pub fn fraction_right(judged: &[bool]) -> f32 {
    if judged.is_empty() {
        return 1.0;
    }
    judged.iter().filter(|ok| **ok).count() as f32 / judged.len() as f32
}

/// Judges facts on a view. The objects of the text are matched with those of the picture so that as much
/// of their looks as possible is right; the relation is judged for the matched objects and fails where one
/// of them has neither the outline nor the colour that the text gives it.
pub fn judge(view: &View, facts: &[Fact]) -> Judged {
    let n = view.objects.len();
    let two = facts.iter().any(|f| subject(f) == Some(Subject::Second) || matches!(f, Fact::Relation { .. }));
    let mut best: (f32, Option<usize>, Option<usize>) = (-1.0, None, None);
    let candidates = |used: bool| if used { (0..n).map(Some).chain([None]).collect() } else { vec![None] };
    for first in candidates(true) {
        for second in candidates(two) {
            if first.is_some() && first == second {
                continue;
            }
            let mut score = 0.0;
            for fact in facts {
                let Some(on) = assigned(fact, first, second) else { continue };
                // Colour before outline, so that the choice among half-right objects does not depend on
                // their order.
                let weight = match fact {
                    Fact::Size { .. } => 0.3,
                    Fact::Colour { .. } => 1.03,
                    _ => 1.0,
                };
                score += if on.is_some_and(|i| fits(&view.objects[i], fact)) { weight } else { 0.0 };
            }
            // Equal looks: the relation decides; an object is better than none.
            if relation_of(facts).is_some_and(|r| related(view, first, second, r)) {
                score += 0.1;
            }
            score += 0.01 * (f32::from(first.is_some()) + f32::from(second.is_some()));
            if score > best.0 {
                best = (score, first, second);
            }
        }
    }
    let (_, first, second) = best;
    let known = |of: Subject, at: Option<usize>| {
        let looks: Vec<&Fact> = facts
            .iter()
            .filter(|f| subject(f) == Some(of) && !matches!(f, Fact::Size { .. }))
            .collect();
        at.is_some_and(|i| looks.is_empty() || looks.iter().any(|f| fits(&view.objects[i], f)))
    };
    facts
        .iter()
        .map(|fact| match *fact {
            Fact::Count { count } => n == usize::from(count),
            Fact::Background { background } => view.background == background,
            Fact::Relation { relation } => {
                known(Subject::First, first)
                    && known(Subject::Second, second)
                    && related(view, first, second, relation)
            }
            _ => match assigned(fact, first, second) {
                Some(on) => on.is_some_and(|i| fits(&view.objects[i], fact)),
                None => {
                    let wanted = said_count(facts).unwrap_or(2);
                    let right = view.objects.iter().filter(|o| fits(o, fact)).count();
                    right > 0 && (right == n || right >= wanted)
                }
            },
        })
        .collect()
}

fn subject(fact: &Fact) -> Option<Subject> {
    match fact {
        Fact::Shape { of, .. } | Fact::Colour { of, .. } | Fact::Size { of, .. } => Some(*of),
        _ => None,
    }
}

/// The object that a fact about one object is about; none where the fact is about no single object.
#[allow(clippy::option_option)]
fn assigned(fact: &Fact, first: Option<usize>, second: Option<usize>) -> Option<Option<usize>> {
    match subject(fact)? {
        Subject::First => Some(first),
        Subject::Second => Some(second),
        Subject::Each => None,
    }
}

fn fits(object: &Seen, fact: &Fact) -> bool {
    match *fact {
        Fact::Shape { shape, .. } => object.shape == shape,
        Fact::Colour { colour, .. } => object.colour == colour,
        Fact::Size { size, .. } => object.size == size,
        _ => false,
    }
}

fn related(view: &View, first: Option<usize>, second: Option<usize>, relation: Relation) -> bool {
    let (Some(a), Some(b)) = (first, second) else { return false };
    let (a, b) = (&view.objects[a], &view.objects[b]);
    relation.holds(a.x - b.x, a.y - b.y)
}

fn relation_of(facts: &[Fact]) -> Option<Relation> {
    facts.iter().find_map(|f| if let Fact::Relation { relation } = f { Some(*relation) } else { None })
}

fn said_count(facts: &[Fact]) -> Option<usize> {
    facts.iter().find_map(|f| if let Fact::Count { count } = f { Some(usize::from(*count)) } else { None })
}

/// Words for [`SizeClass::Small`].
pub(crate) const SMALL_WORDS: [&str; 3] = ["small", "little", "tiny"];
/// Words for [`SizeClass::Large`].
pub(crate) const LARGE_WORDS: [&str; 3] = ["large", "big", "huge"];

/// Recovers the facts of a text of our own grammar; style words and unknown words are passed over. None
/// where the text names no object. Of three or more objects the first two count.
pub fn parse_facts(text: &str) -> Option<Vec<Fact>> {
    #[derive(Default, Clone, Copy)]
    struct Named {
        shape: Option<Shape>,
        colour: Option<Colour>,
        size: Option<SizeClass>,
        plural: bool,
    }
    let lower = text.to_lowercase();
    let tokens: Vec<&str> = lower.split(|c: char| !c.is_alphanumeric()).filter(|t| !t.is_empty()).collect();
    let mut objects: Vec<Named> = Vec::new();
    let mut pending = Named::default();
    let (mut count, mut relation, mut background) = (None, None, None);
    for (i, token) in tokens.iter().enumerate() {
        let before = if i == 0 { "" } else { tokens[i - 1] };
        if let Some(shape) = Shape::ALL.into_iter().find(|s| [s.word(), s.plural()].contains(token)) {
            objects.push(Named { shape: Some(shape), plural: *token == shape.plural(), ..pending });
            pending = Named::default();
        } else if let Some(colour) = Colour::ALL.into_iter().find(|c| c.word() == *token) {
            match objects.last_mut() {
                Some(last) if last.colour.is_none() && ["is", "are", "in"].contains(&before) => {
                    last.colour = Some(colour);
                }
                _ => pending.colour = Some(colour),
            }
        } else if SMALL_WORDS.contains(token) {
            pending.size = Some(SizeClass::Small);
        } else if LARGE_WORDS.contains(token) {
            pending.size = Some(SizeClass::Large);
        } else if let Some(shade) = Background::ALL.into_iter().find(|b| b.word() == *token) {
            background = background.or(Some(shade));
        } else if let Some(n) = count_word(token) {
            count = count.or(Some(n));
        } else if let Some(r) = relation_word(token) {
            relation = relation.or(Some(r));
        }
    }
    let first = *objects.first()?;
    let mut facts = Vec::new();
    let mut say = |named: Named, of: Subject| {
        facts.extend(named.colour.map(|colour| Fact::Colour { of, colour }));
        facts.extend(named.shape.map(|shape| Fact::Shape { of, shape }));
        facts.extend(named.size.map(|size| Fact::Size { of, size }));
    };
    match objects.get(1) {
        Some(second) => {
            say(first, Subject::First);
            say(*second, Subject::Second);
            facts.extend(relation.map(|relation| Fact::Relation { relation }));
        }
        None if first.plural => {
            say(first, Subject::Each);
            facts.extend(count.map(|count| Fact::Count { count }));
        }
        None => {
            say(first, Subject::First);
            facts.push(Fact::Count { count: 1 });
        }
    }
    facts.extend(background.map(|background| Fact::Background { background }));
    Some(facts)
}

fn count_word(token: &str) -> Option<u8> {
    match token {
        "two" | "pair" => Some(2),
        "three" => Some(3),
        _ => None,
    }
}

fn relation_word(token: &str) -> Option<Relation> {
    match token {
        "left" => Some(Relation::LeftOf),
        "right" => Some(Relation::RightOf),
        "above" | "over" | "top" => Some(Relation::Above),
        "below" | "under" | "beneath" | "bottom" => Some(Relation::Below),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_texts_parse() {
        let facts = parse_facts("a green square left of a small yellow triangle on a grey background").unwrap();
        let said: Vec<String> = facts.iter().map(|f| f.describe(&facts)).collect();
        assert_eq!(
            said,
            [
                "the square is green",
                "there is a square",
                "the triangle is yellow",
                "there is a triangle",
                "the triangle is small",
                "the square is left of the triangle",
                "the background is grey"
            ]
        );
        let facts = parse_facts("A crisp picture of two stars that are blue, in sharp focus").unwrap();
        assert_eq!(
            facts,
            [
                Fact::Colour { of: Subject::Each, colour: Colour::Blue },
                Fact::Shape { of: Subject::Each, shape: Shape::Star },
                Fact::Count { count: 2 }
            ]
        );
        assert_eq!(parse_facts("a crisp picture"), None);
    }

    #[test]
    fn facts_are_plain_json() {
        let facts = parse_facts("one red circle").unwrap();
        let json = serde_json::to_string(&facts[0]).unwrap();
        assert_eq!(json, r#"{"kind":"colour","of":"first","colour":"red"}"#);
        assert_eq!(serde_json::from_str::<Fact>(&json).unwrap(), facts[0]);
    }

    fn seen(shape: Shape, colour: Colour, x: f32, y: f32) -> Seen {
        Seen { shape, colour, size: SizeClass::Small, x, y }
    }

    #[test]
    fn judging_matches_objects_first() {
        let facts = parse_facts("a red circle above a blue star").unwrap();
        let right = View {
            objects: vec![
                seen(Shape::Star, Colour::Blue, 30.0, 50.0),
                seen(Shape::Circle, Colour::Red, 32.0, 12.0),
            ],
            background: Background::White,
        };
        assert_eq!(judge(&right, &facts), [true; 5]);
        let mut swapped = right.clone();
        swapped.objects[0].y = 5.0;
        assert_eq!(judge(&swapped, &facts), [true, true, true, true, false]);
        let lone = View { objects: right.objects[..1].to_vec(), background: Background::White };
        assert_eq!(judge(&lone, &facts), [false, false, true, true, false]);
        let none = View { objects: Vec::new(), background: Background::White };
        assert_eq!(judge(&none, &facts), [false; 5]);
    }

    #[test]
    fn strays_break_the_count_only() {
        let facts = parse_facts("two blue stars").unwrap();
        let mut view = View {
            objects: vec![
                seen(Shape::Star, Colour::Blue, 10.0, 50.0),
                seen(Shape::Star, Colour::Blue, 32.0, 12.0),
                seen(Shape::Circle, Colour::Red, 50.0, 50.0),
            ],
            background: Background::White,
        };
        assert_eq!(judge(&view, &facts), [true, true, false]);
        view.objects.remove(0);
        assert_eq!(judge(&view, &facts), [false, false, true]);
    }
}
