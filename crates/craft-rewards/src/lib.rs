//! craft-rewards
