//! Whether the facts of a text hold in a picture as somebody sees it.

use serde::{Deserialize, Serialize};

use super::attributes::{Background, Colour, Relation, Shape, SizeClass};
use super::facts::{Fact, Subject};
use super::scene::Scene;

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
    let two = facts
        .iter()
        .any(|f| subject(f) == Some(Subject::Second) || matches!(f, Fact::Relation { .. }));
    let mut best: (f32, Option<usize>, Option<usize>) = (-1.0, None, None);
    let candidates = |used: bool| {
        if used { (0..n).map(Some).chain([None]).collect() } else { vec![None] }
    };
    for first in candidates(true) {
        for second in candidates(two) {
            if first.is_some() && first == second {
                continue;
            }
            let mut score = 0.0;
            for fact in facts {
                let Some(on) = assigned(fact, first, second) else {
                    continue;
                };
                // Colour before outline and the first object before the second, so that the choice among
                // half-right objects does not depend on their order.
                let weight = match fact {
                    Fact::Size { .. } => 0.3,
                    Fact::Colour { .. } => 1.03,
                    _ => 1.0,
                };
                let weight =
                    if subject(fact) == Some(Subject::First) { weight + 0.004 } else { weight };
                score +=
                    if on.is_some_and(|i| fits(&view.objects[i], fact)) { weight } else { 0.0 };
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
    let (Some(a), Some(b)) = (first, second) else {
        return false;
    };
    let (a, b) = (&view.objects[a], &view.objects[b]);
    relation.holds(a.x - b.x, a.y - b.y)
}

fn relation_of(facts: &[Fact]) -> Option<Relation> {
    facts.iter().find_map(
        |f| {
            if let Fact::Relation { relation } = f { Some(*relation) } else { None }
        },
    )
}

fn said_count(facts: &[Fact]) -> Option<usize> {
    facts
        .iter()
        .find_map(|f| if let Fact::Count { count } = f { Some(usize::from(*count)) } else { None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::parse_facts;

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
