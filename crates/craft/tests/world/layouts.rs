//! Folders and files laid out exactly as published models are.
