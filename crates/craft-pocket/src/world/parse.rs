//! Recovers facts from a text of our own grammar.

use super::attributes::{Background, Colour, Relation, Shape, SizeClass};
use super::facts::{Fact, Subject};

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
    let tokens: Vec<&str> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|t| !t.is_empty()).collect();
    let mut objects: Vec<Named> = Vec::new();
    let mut pending = Named::default();
    let (mut count, mut relation, mut background) = (None, None, None);
    for (i, token) in tokens.iter().enumerate() {
        let before = if i == 0 { "" } else { tokens[i - 1] };
        if let Some(shape) = Shape::ALL.into_iter().find(|s| [s.word(), s.plural()].contains(token))
        {
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
        let facts =
            parse_facts("a green square left of a small yellow triangle on a grey background")
                .unwrap();
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
        let facts =
            parse_facts("A crisp picture of two stars that are blue, in sharp focus").unwrap();
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
}
