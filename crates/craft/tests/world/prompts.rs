//! Prompt files as they are published.
