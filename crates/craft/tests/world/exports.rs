//! Exports under the names that other programs read.
