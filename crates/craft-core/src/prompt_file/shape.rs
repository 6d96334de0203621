//! What a JSON or YAML value says about prompts.
//!
//! Read are: a list of texts or objects; lists by category (`{"anime": [...], "photo": [...]}`, HPDv2);
//! objects or texts by id (MJHQ-30K); columns (`{"prompt": [...]}` or `{"prompt": {"0": ...}}`, pandas); and a
//! list under a name such as `annotations` (COCO captions), `rows` (the hub's viewer) or `data`.

use super::{CATEGORY, Collector, Entry, Place, PromptFileError, TEXT, column, listed};

/// Names under which a list of prompts stands beside other things.
const WRAPPERS: [&str; 7] =
    ["annotations", "rows", "data", "items", "samples", "entries", "examples"];

/// A value, as far as it matters here.
#[derive(Debug)]
pub(super) enum Node {
    /// A text.
    Text(String),
    /// An object with a prompt in it; the text is empty where it is null.
    Row(Entry),
    /// A list.
    List(Vec<Node>),
    /// Any other object.
    Map(Vec<(String, Node)>),
    /// Nothing, or a number that is none.
    Null,
    /// A number or truth value.
    Other,
}

impl Node {
    /// An object from its keys and values. What a prompt's object holds beside the prompt is let go at once.
    pub(super) fn of_pairs(mut pairs: Vec<(String, Node)>) -> Self {
        let place = |wanted: &[&str], fits: fn(&Node) -> bool| {
            let is = |w: &&str| {
                pairs.iter().position(|(key, value)| key.eq_ignore_ascii_case(w) && fits(value))
            };
            wanted.iter().find_map(is)
        };
        let text = place(&TEXT, |v| matches!(v, Node::Text(_)))
            .or_else(|| place(&TEXT, |v| matches!(v, Node::Null)));
        let category = place(&CATEGORY, |v| matches!(v, Node::Text(_)));
        let Some(text) = text else { return Node::Map(pairs) };
        let mut take = |i: usize| match std::mem::replace(&mut pairs[i].1, Node::Null) {
            Node::Text(text) => text,
            _ => String::new(),
        };
        Node::Row(Entry { text: take(text), category: category.map(take) })
    }

    /// For messages: what this is.
    fn what(&self) -> String {
        match self {
            Node::Text(_) => "a text".to_owned(),
            Node::Row(_) => "an object".to_owned(),
            Node::List(_) => "a list".to_owned(),
            Node::Map(pairs) if pairs.is_empty() => "an object without keys".to_owned(),
            Node::Map(pairs) => {
                let keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
                format!("an object with the keys {}", listed(&keys))
            }
            Node::Null => "null".to_owned(),
            Node::Other => "a number or truth value".to_owned(),
        }
    }

    fn is_prompt(&self) -> bool {
        matches!(self, Node::Text(_) | Node::Row(_) | Node::Null)
    }

    fn is_list_of_prompts(&self) -> bool {
        matches!(self, Node::List(items) if items.iter().all(Node::is_prompt))
    }
}

/// All prompts of a file.
pub(super) fn collect(
    node: Node,
    format: &'static str,
    into: &mut Collector,
) -> Result<(), PromptFileError> {
    let hint = if format == "YAML" { "; put a text that holds `: ` in quotes" } else { "" };
    let none = |found: String| Err(PromptFileError::NotAList { format, found });
    match node {
        Node::List(items) => list(items, None, hint, into),
        Node::Row(row) => into.add(Place::entry(1), &row.text, row.category),
        Node::Map(pairs) => match map(pairs, hint, into) {
            Found::Prompts(result) => result,
            Found::Nothing(pairs) => none(Node::Map(pairs).what()),
        },
        other => none(other.what()),
    }
}

/// Either the result, or the pairs that hold no prompts.
enum Found {
    Prompts(Result<(), PromptFileError>),
    Nothing(Vec<(String, Node)>),
}

fn map(mut pairs: Vec<(String, Node)>, hint: &'static str, into: &mut Collector) -> Found {
    let names: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    if let Some(texts) = column(&TEXT, &names) {
        let categories = column(&CATEGORY, &names);
        let mut take = |i: usize| std::mem::replace(&mut pairs[i].1, Node::Null);
        let texts = take(texts);
        return Found::Prompts(columns(texts, categories.map(take), hint, into));
    }
    if let Some(place) = column(&WRAPPERS, &names)
        && matches!(pairs[place].1, Node::List(_))
        && let Node::List(items) = pairs.swap_remove(place).1
    {
        return Found::Prompts(list(items, None, hint, into));
    }
    if pairs.is_empty() {
        return Found::Nothing(pairs);
    }
    if pairs.iter().all(|(_, value)| value.is_list_of_prompts()) {
        let mut each = pairs.into_iter().filter_map(|(key, value)| match value {
            Node::List(items) => Some((key, items)),
            _ => None,
        });
        return Found::Prompts(
            each.try_for_each(|(key, items)| list(items, Some(&key), hint, into)),
        );
    }
    let by_id = |(key, value): &(String, Node)| match value {
        Node::Row(_) => true,
        // A text by a name alone may be anything, such as the title of the set.
        Node::Text(_) => key.bytes().any(|b| b.is_ascii_digit()),
        _ => false,
    };
    if pairs.iter().all(by_id) {
        return Found::Prompts(list(pairs.into_iter().map(|p| p.1).collect(), None, hint, into));
    }
    Found::Nothing(pairs)
}

/// Columns as lists, or by row as pandas writes them.
fn columns(
    texts: Node,
    categories: Option<Node>,
    hint: &'static str,
    into: &mut Collector,
) -> Result<(), PromptFileError> {
    let values = |node: Node| match node {
        Node::List(items) => items,
        Node::Map(pairs) => pairs.into_iter().map(|(_, value)| value).collect(),
        other => vec![other],
    };
    let mut groups = categories.map(values).unwrap_or_default().into_iter();
    for (i, text) in values(texts).into_iter().enumerate() {
        let group = match groups.next() {
            Some(Node::Text(group)) => Some(group),
            _ => None,
        };
        entry(text, Place::entry(i + 1), group.as_deref(), hint, into)?;
    }
    Ok(())
}

fn list(
    items: Vec<Node>,
    category: Option<&str>,
    hint: &'static str,
    into: &mut Collector,
) -> Result<(), PromptFileError> {
    for (i, item) in items.into_iter().enumerate() {
        entry(item, Place::entry(i + 1), category, hint, into)?;
    }
    Ok(())
}

/// One prompt: a text, or an object that holds one.
pub(super) fn entry(
    node: Node,
    place: Place,
    category: Option<&str>,
    hint: &'static str,
    into: &mut Collector,
) -> Result<(), PromptFileError> {
    let group = || category.map(str::to_owned);
    match node {
        Node::Text(text) => into.add(place, &text, group()),
        Node::Row(row) => into.add(place, &row.text, row.category.or_else(group)),
        Node::Null => into.add(place, "", None),
        // The hub's viewer wraps each row.
        Node::Map(mut pairs) if pairs.iter().any(|(k, v)| k == "row" && v.is_prompt()) => {
            let at = pairs.iter().position(|(k, _)| k == "row").unwrap_or_default();
            entry(pairs.swap_remove(at).1, place, category, hint, into)
        }
        other => Err(PromptFileError::NoText { place, found: other.what(), hint }),
    }
}
