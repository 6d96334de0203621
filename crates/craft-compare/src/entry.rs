//! A method as it takes part in a comparison: its name, its changes of the recipe, its folders.

use craft_core::Recipe;
use craft_store::Stage;
use craft_train::methods::Method;

use super::change::{Change, changed, checked};
use super::methods::{self, CRAFT, method};
use super::pipeline::Result;
use super::spread::Part;

/// Where learning rate and length come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SettingsFrom {
    /// A search of its own.
    Search,
    /// The search of `craft`, of which it is another form.
    Craft,
    /// Nowhere: an untrained baseline has none.
    Nowhere,
}

/// A method under a name, with changes of the recipe.
pub(super) struct Variant {
    pub(super) name: String,
    pub(super) method: &'static Method,
    pub(super) changes: Vec<Change>,
    pub(super) part: Part,
    pub(super) settings: SettingsFrom,
}

impl Variant {
    /// A method as it is.
    pub(super) fn of(method: &'static Method) -> Self {
        let settings = match method.data.guidance() {
            Some(_) => SettingsFrom::Nowhere,
            None => SettingsFrom::Search,
        };
        let (name, part) = (method.name.to_owned(), Part::default());
        Self { name, method, changes: Vec::new(), part, settings }
    }

    /// CRAFT in several rounds, within the budget of one.
    pub(super) fn rounds(count: usize) -> Result<Self> {
        Ok(Self {
            name: format!("craft-{count}-rounds"),
            changes: vec![Change::Rounds(count), Change::SameBudget(true)],
            settings: SettingsFrom::Craft,
            ..Self::of(method(CRAFT)?)
        })
    }
}

/// A method with its settings in this comparison.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) method: &'static Method,
    /// What it changes of the recipe.
    pub(super) changes: Vec<Change>,
    /// The candidates that it may see.
    pub(super) part: Part,
    pub(super) settings: SettingsFrom,
    /// Its folder below that of a seed.
    pub(super) stage: Stage,
    /// The folder of its search.
    pub(super) search: Stage,
}

impl Entry {
    /// # Errors
    /// When the recipe cannot have the variant's changes.
    pub(super) fn new(variant: Variant, recipe: &Recipe) -> Result<Self> {
        let Variant { name, method, mut changes, part, settings } = variant;
        changes.extend(methods::changes(method, recipe)?);
        checked(recipe, &changes)?;
        let stage = |kind: &str, folder: &str| {
            Stage::named(format!("{kind} {name}"), format!("{folder}/{name}"))
        };
        let (tune, search) = (stage("tune", "methods"), stage("search", "search"));
        Ok(Self { changes, part, method, settings, stage: tune, search, name })
    }

    /// Whether it has settings of its own to search for.
    pub(super) fn searches(&self) -> bool {
        self.settings == SettingsFrom::Search
    }

    /// Its longest training, in steps.
    pub(super) fn steps(&self, recipe: &Recipe) -> usize {
        self.recipe(recipe).train.steps * self.method.length
    }

    /// The recipe of a seed as this method has it.
    pub(super) fn recipe(&self, recipe: &Recipe) -> Recipe {
        changed(recipe, &self.changes)
    }
}
