//! In place of the client where this was built without HTTP.

use serde_json::Value;

use crate::ServerOptions;
use crate::error::ExternalError;

/// Cannot be made.
#[derive(Debug)]
pub(crate) enum Client {}

impl Client {
    pub(crate) fn new(options: &ServerOptions, _: &str) -> Result<Self, ExternalError> {
        Err(ExternalError::NoHttp { url: options.url.clone() })
    }

    pub(crate) fn post(&self, _: &Value) -> Result<Value, String> {
        match *self {}
    }
}
