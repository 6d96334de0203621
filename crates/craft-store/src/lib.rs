//! craft-store
