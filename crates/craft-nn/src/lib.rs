//! craft-nn
