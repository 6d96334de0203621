//! Folders and files laid out exactly as published models are (fixtures/layouts).

mod facts;
mod files;
mod models;
mod pickle;
mod rewards;
mod sizes;
mod tokens;
