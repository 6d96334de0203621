//! The sections of the page, one file each.

pub(crate) mod checks;
pub(crate) mod distributions;
pub(crate) mod funnel;
pub(crate) mod gallery;
pub(crate) mod planned;
pub(crate) mod provenance;
pub(crate) mod strength;
pub(crate) mod tables;
pub(crate) mod training;
pub(crate) mod verdict;
