//! craft-pipeline
