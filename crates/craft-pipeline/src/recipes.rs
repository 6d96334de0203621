//! The embedded recipes.

/// The whole loop on the pocket model in a few minutes on two cores.
pub const DEMO_RECIPE: &str = include_str!("../../../recipes/pocket.toml");

/// The same, smaller, for a quick look and for continuous integration.
pub const QUICK_DEMO_RECIPE: &str = include_str!("../../../recipes/pocket-quick.toml");
