//! What makes a command or server unusable before anything is asked of it.

use std::path::PathBuf;

use thiserror::Error;

/// Found when a recipe is checked.
#[derive(Debug, Error)]
pub enum ExternalError {
    /// No such program.
    #[error(
        "the program `{program}` is not {place}: install it, or give its path relative to the recipe"
    )]
    NoProgram {
        /// As it was given.
        program: String,
        /// Where it was looked for.
        place: String,
    },
    /// A file that cannot be executed.
    #[error("{} is not an executable file: make it one, or name the program that runs it first", path.display())]
    NotExecutable {
        /// The file.
        path: PathBuf,
    },
    /// An address that is not used.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Endpoint(#[from] craft_net::EndpointError),
    /// A build without HTTP.
    #[error(
        "{url}: this build asks no servers: build it with `--features http`, or score with a command"
    )]
    NoHttp {
        /// As it was given.
        url: String,
    },
    /// No key.
    #[error(
        "the environment variable {name} (api_key_env) is {problem}: set it to the server's key"
    )]
    Key {
        /// Name of the variable.
        name: String,
        /// `not set`, or what is wrong with it.
        problem: &'static str,
    },
}
