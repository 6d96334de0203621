//! Connections: the one HTTP client of the workspace, and what counts as this machine.
//!
//! Invariants: no other crate opens a connection (`clippy.toml`); redirects are never followed here, so
//! that a key is sent only where its owner sends it; whatever is on this machine is asked without a
//! proxy; every wait and every body has a bound that the caller names.

// The crate that owns connections.
#![allow(clippy::disallowed_methods)]

mod client;
mod endpoint;
mod stream;

pub use client::{Answer, Bounds, Client, NetError};
pub use endpoint::{Endpoint, EndpointError, is_loopback};
pub use stream::{Pace, Stream, Trouble};
/// Requests, addresses, headers and status codes.
pub use ureq::http;
