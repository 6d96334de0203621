//! SPO (Liang et al. 2024), which draws as it goes; see [`crate::online`].

use super::{Data, Drawing, LONGER, Method, common, method};

const DATA: Data = Data::Prompts(Drawing::Continuations);

pub(super) const METHODS: &[Method] =
    &[method("spo", "SPO, online, step-aware pairs", DATA, common, LONGER)];
