//! craft-core
