//! craft-pocket
