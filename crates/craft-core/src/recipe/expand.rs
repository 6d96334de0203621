//! `[expand]`

use serde::{Deserialize, Serialize};

use super::external::{server_timeout, variable_name};
use super::validate::{number, range, text, whole};
use super::{RecipeError, is_default};

/// Where wordings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExpandKind {
    /// Templates.
    #[default]
    Template,
    /// A file of wordings.
    File,
    /// A language model behind an OpenAI-compatible server.
    Openai,
}

/// `[expand]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ExpandSection {
    /// Templates, a file, or a language model.
    pub kind: ExpandKind,
    /// `general`, `pocket`, or the path of a TOML file of templates.
    pub templates: String,
    /// JSON lines of wordings, for kind `file`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Wordings per prompt beside the prompt itself, G.
    pub variants: usize,
    /// Base address of the server for kind `openai`, such as `http://127.0.0.1:8000/v1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Model that the server is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Environment variable that holds the server's key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Temperature of sampling; 1 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// Whether the server may be another machine.
    #[serde(skip_serializing_if = "is_default")]
    pub allow_remote: bool,
    /// Seconds that an answer may take; 120 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Times that a busy or failing server, and one with malformed answers, is asked again; 3 if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<usize>,
}

impl Default for ExpandSection {
    fn default() -> Self {
        Self {
            kind: ExpandKind::default(),
            templates: "general".to_owned(),
            file: None,
            variants: 4,
            base_url: None,
            model: None,
            api_key_env: None,
            temperature: None,
            allow_remote: false,
            timeout_seconds: None,
            retries: None,
        }
    }
}

impl ExpandSection {
    /// Times a server is asked again when `retries` is not given.
    pub const RETRIES: usize = 3;
    /// Seconds of an answer when `timeout_seconds` is not given.
    pub const TIMEOUT_SECONDS: f64 = 120.0;

    /// Checks every value against its range and against the kind.
    pub(super) fn validate(&self) -> Result<(), RecipeError> {
        whole("expand.variants", self.variants, 1, 1000)?;
        if self.kind != ExpandKind::Openai {
            for (key, given) in [
                ("base_url", self.base_url.is_some()),
                ("model", self.model.is_some()),
                ("api_key_env", self.api_key_env.is_some()),
                ("temperature", self.temperature.is_some()),
                ("allow_remote", self.allow_remote),
                ("timeout_seconds", self.timeout_seconds.is_some()),
                ("retries", self.retries.is_some()),
            ] {
                if given {
                    let key = format!("expand.{key}");
                    return Err(range(key, "given", "it with expand.kind = \"openai\" only"));
                }
            }
        }
        match (self.kind, &self.file) {
            (ExpandKind::File, None) => Err(range(
                "expand.file",
                "missing",
                "a file of wordings with expand.kind = \"file\"",
            )),
            (ExpandKind::File, Some(path)) => text("expand.file", path, "a file of wordings"),
            (ExpandKind::Template | ExpandKind::Openai, Some(path)) => Err(range(
                "expand.file",
                format!("`{path}`"),
                "no file unless expand.kind = \"file\"",
            )),
            (ExpandKind::Template, None) => {
                text("expand.templates", &self.templates, "`general`, `pocket` or a path")
            }
            (ExpandKind::Openai, None) => self.validate_server(),
        }
    }

    fn validate_server(&self) -> Result<(), RecipeError> {
        whole("expand.variants", self.variants, 1, 100)?;
        for (key, value, expected) in [
            ("expand.base_url", &self.base_url, "an address such as http://127.0.0.1:8000/v1"),
            ("expand.model", &self.model, "the name of a model of the server"),
        ] {
            match value {
                Some(value) => text(key, value, expected)?,
                None => return Err(range(key, "missing", expected)),
            }
        }
        if let Some(temperature) = self.temperature {
            number("expand.temperature", temperature, 0.0, 10.0)?;
        }
        if let Some(name) = &self.api_key_env {
            variable_name("expand.api_key_env", name)?;
        }
        server_timeout("expand.timeout_seconds", self.timeout_seconds)?;
        whole("expand.retries", self.retries.unwrap_or(Self::RETRIES), 0, 10)
    }
}
