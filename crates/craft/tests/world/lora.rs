//! Adapters in every dialect.
