//! From TOML text and overrides to a checked recipe, and back.

use toml::{Table, Value};

use super::fields::{keys_of, nearest};
use super::{
    ControlSection, EvaluateSection, ExpandSection, GenerateSection, LoraSection, ModelSection,
    PromptsSection, Recipe, RecipeError, ReportSection, RewardSection, RoundsSection,
    SelectSection, StopSection, SweepSection, TrainSection,
};

/// Keys of each table. Lists of tables are checked element by element.
fn sections() -> [(&'static str, &'static [&'static str]); 14] {
    [
        ("model", keys_of::<ModelSection>()),
        ("prompts", keys_of::<PromptsSection>()),
        ("expand", keys_of::<ExpandSection>()),
        ("generate", keys_of::<GenerateSection>()),
        ("rewards", keys_of::<RewardSection>()),
        ("select", keys_of::<SelectSection>()),
        ("train", keys_of::<TrainSection>()),
        ("train.lora", keys_of::<LoraSection>()),
        ("control", keys_of::<ControlSection>()),
        ("evaluate", keys_of::<EvaluateSection>()),
        ("rounds", keys_of::<RoundsSection>()),
        ("sweep", keys_of::<SweepSection>()),
        ("stop", keys_of::<StopSection>()),
        ("report", keys_of::<ReportSection>()),
    ]
}

impl Recipe {
    /// Parses a recipe, applies overrides of the form `key=value` in their order, fills defaults
    /// and checks every value.
    pub fn parse<S: AsRef<str>>(text: &str, overrides: &[S]) -> Result<Self, RecipeError> {
        let mut table: Table =
            toml::from_str(text).map_err(|e| RecipeError::Syntax(e.to_string()))?;
        for text in overrides {
            apply_override(&mut table, text.as_ref())?;
        }
        Self::from_table(table)
    }

    /// Fills defaults of a parsed document and checks every value.
    pub fn from_table(table: Table) -> Result<Self, RecipeError> {
        check_keys(&table)?;
        let recipe: Recipe =
            serde_path_to_error::deserialize(Value::Table(table)).map_err(type_error)?;
        recipe.validate()?;
        Ok(recipe)
    }

    /// The resolved recipe as TOML: every key that has a value, defaults included. Parses to the
    /// same recipe.
    pub fn to_toml(&self) -> String {
        // Serialising a struct of strings, numbers and tables cannot fail.
        toml::to_string_pretty(self).unwrap_or_default()
    }
}

/// Rewrites serde's words about a value.
fn type_error(error: serde_path_to_error::Error<toml::de::Error>) -> RecipeError {
    let path = error.path().to_string();
    let message = error.inner().message().trim().to_owned();
    let missing = message.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
    let parent = if path == "." { String::new() } else { path };
    match missing {
        Some(field) => RecipeError::Type {
            key: if parent.is_empty() { field.to_owned() } else { format!("{parent}.{field}") },
            message: "it is missing, and has no default".to_owned(),
        },
        None => RecipeError::Type { key: parent, message },
    }
}

/// Refuses keys that do not exist, with the nearest that does.
fn check_keys(table: &Table) -> Result<(), RecipeError> {
    check_table("", "", table, keys_of::<Recipe>())
}

/// Checks the keys of the table at `path` and of the sections in it. `section` is its name without
/// the indices of lists.
fn check_table(
    section: &str,
    path: &str,
    table: &Table,
    known: &[&'static str],
) -> Result<(), RecipeError> {
    for (key, value) in table {
        if !known.contains(&key.as_str()) {
            return Err(unknown(path, key, known));
        }
        let (section, path) = (full(section, key), full(path, key));
        let Some((_, keys)) = sections().into_iter().find(|(name, _)| *name == section) else {
            continue;
        };
        match value {
            Value::Table(inner) => check_table(&section, &path, inner, keys)?,
            Value::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    if let Some(inner) = item.as_table() {
                        check_table(&section, &format!("{path}[{i}]"), inner, keys)?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// The path of a key.
fn full(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The error of one unknown key; looks in other sections if nothing near is in its own.
fn unknown(path: &str, key: &str, known: &[&'static str]) -> RecipeError {
    let elsewhere = || {
        sections()
            .into_iter()
            .find(|(_, keys)| keys.contains(&key))
            .map(|(section, _)| full(section, key))
    };
    RecipeError::UnknownKey {
        key: full(path, key),
        suggestion: nearest(key, known.iter().copied())
            .map(|near| full(path, near))
            .or_else(elsewhere),
        known: known.join(", "),
    }
}

/// Applies one override such as `train.steps=60`, `expand.templates=general` or
/// `rewards.pocket-hps.weight=2` (an element of a list by its `name` or its index) to a document.
///
/// The value is read as TOML; what is not TOML is taken as a string. Sections that are missing are
/// made. Whether the key exists is checked when the document becomes a recipe.
pub fn apply_override(table: &mut Table, text: &str) -> Result<(), RecipeError> {
    let fail = |message: &str| {
        Err(RecipeError::Override { text: text.to_owned(), message: message.to_owned() })
    };
    let Some((key, value)) = text.split_once('=') else {
        return fail("expected key=value, such as train.steps=60");
    };
    let parts: Vec<&str> = key.trim().split('.').map(str::trim).collect();
    if parts.iter().any(|part| part.is_empty()) {
        return fail("the key is empty or has an empty part");
    }
    let value = parse_value(value.trim());
    let Some((last, sections)) = parts.split_last() else {
        return fail("the key is empty");
    };
    let mut here = table;
    let mut rest = sections;
    while let Some((part, after)) = rest.split_first() {
        rest = after;
        let entry = here.entry((*part).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        here = match entry {
            Value::Table(inner) => inner,
            Value::Array(items) => {
                let Some((which, after)) = rest.split_first() else {
                    return fail(
                        "the key is a list: name an element of it, such as rewards.0.weight",
                    );
                };
                rest = after;
                let found = items.iter_mut().enumerate().find_map(|(i, item)| {
                    let inner = item.as_table_mut()?;
                    let named = inner.get("name").and_then(Value::as_str) == Some(which);
                    (named || which.parse() == Ok(i)).then_some(inner)
                });
                match found {
                    Some(inner) => inner,
                    None => return fail(&format!("the list has no element `{which}`")),
                }
            }
            _ => return fail(&format!("`{part}` is a value, not a section")),
        };
    }
    here.insert((*last).to_owned(), value);
    Ok(())
}

/// A TOML value, or else the text itself.
fn parse_value(text: &str) -> Value {
    toml::from_str::<Table>(&format!("value = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(text.to_owned()))
}
