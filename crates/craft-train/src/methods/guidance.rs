//! Untrained baselines: the base model with more guidance, which anybody has for nothing.

use super::{Data, Method, common, method};

pub(super) const METHODS: &[Method] = &[
    method(
        "guidance-1.5",
        "the base model at 1.5 times the guidance, untrained",
        Data::Guidance(150),
        common,
        0,
    ),
    method(
        "guidance-2",
        "the base model at twice the guidance, untrained",
        Data::Guidance(200),
        common,
        0,
    ),
];
