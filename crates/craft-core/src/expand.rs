//! Wordings of a prompt: from templates, or from a file that some other tool wrote.

mod file;
mod template;

pub use file::{ExpansionError, ExpansionFile};
pub use template::{ExpandError, TemplateError, Templates};

/// The built-in list for general models: style, medium, lighting and composition.
pub const GENERAL_TEMPLATES: &str = include_str!("expand/general.toml");
