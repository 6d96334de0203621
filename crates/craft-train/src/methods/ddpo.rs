//! DDPO (Black et al. 2023), which draws as it goes; see [`crate::online`].

use super::{Data, Drawing, LONGER, Method, common, method};

pub(super) const METHODS: &[Method] =
    &[method("ddpo", "DDPO, online", Data::Prompts(Drawing::Trajectories), common, LONGER)];
