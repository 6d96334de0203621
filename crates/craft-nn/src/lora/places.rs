//! Modules that some programs have no place for when they read a LoRA.

use super::{Adapter, Component};

/// Modules of an adapter that a program leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The program.
    pub program: &'static str,
    /// Kinds of modules, such as `conv_in`.
    pub modules: Vec<&'static str>,
}

/// Kinds of modules by component, with the programs that have no place for them, as seen when files
/// were put through their loaders (docs/exports.md).
const WITHOUT: [(Component, &str, &[&str]); 5] = [
    (Component::Unet, "conv_in", &[SD_SCRIPTS, SD_CPP]),
    (Component::Unet, "conv_out", &[SD_SCRIPTS, SD_CPP]),
    (Component::Unet, "time_embedding", &[SD_SCRIPTS, SD_CPP]),
    (Component::Unet, "add_embedding", &[SD_SCRIPTS, SD_CPP]),
    (Component::TextEncoder2, "text_projection", &[A1111, SD_SCRIPTS, SD_CPP]),
];
const A1111: &str = "A1111";
const SD_SCRIPTS: &str = "sd-scripts";
const SD_CPP: &str = "stable-diffusion.cpp";

/// What programs leave out of adapters on these parameters, by program.
pub fn unplaced<'a>(
    parameters: impl Iterator<Item = (Component, &'a str)> + Clone,
) -> Vec<Unplaced> {
    let mut out: Vec<Unplaced> = Vec::new();
    for (component, kind, programs) in WITHOUT {
        let is = |name: &str| name.strip_prefix(kind).is_some_and(|rest| rest.starts_with('.'));
        if !parameters.clone().any(|(of, name)| of == component && is(name)) {
            continue;
        }
        for program in programs {
            match out.iter_mut().find(|found| found.program == *program) {
                Some(found) => found.modules.push(kind),
                None => out.push(Unplaced { program, modules: vec![kind] }),
            }
        }
    }
    out
}

impl Adapter {
    /// What programs leave out of this adapter.
    pub fn unplaced(&self) -> Vec<Unplaced> {
        let parameters = self.components.iter();
        unplaced(
            parameters.flat_map(|(component, pairs)| {
                pairs.keys().map(|name| (*component, name.as_str()))
            }),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_named_with_what_they_lack() {
        let names = [
            (Component::Unet, "conv_in.weight"),
            (Component::Unet, "time_embedding.linear_1.weight"),
            (Component::Unet, "mid_block.attentions.0.proj_in.weight"),
            (Component::TextEncoder2, "text_projection.weight"),
        ];
        let found = unplaced(names.into_iter());
        assert_eq!(found.len(), 3);
        let a1111 = found.iter().find(|u| u.program == A1111).map(|u| u.modules.clone());
        assert_eq!(a1111, Some(vec!["text_projection"]));
        assert_eq!(unplaced(names[2..3].iter().copied()), []);
    }
}
