//! Flags about samplers, made from their table.

use craft_core::sampler::{SAMPLERS, SamplerKind};

/// Help of `--scheduler`, from the table of samplers.
pub(crate) fn names() -> String {
    let rows: Vec<String> =
        SAMPLERS.iter().map(|kind| format!("{} ({})", kind.name, kind.help)).collect();
    format!("Sampler: {} [default: {}]", rows.join(", "), SamplerKind::default().name)
}

/// Help of `--karras`.
pub(crate) fn karras() -> String {
    let names = SamplerKind::with_karras().join(" and ");
    format!("Karras sigmas, for {names} [default: as the model's scheduler configuration says]")
}

/// A sampler by its name.
///
/// # Errors
/// Lists the names there are.
pub(crate) fn named(name: &str) -> Result<SamplerKind, String> {
    SamplerKind::named(name).ok_or_else(|| {
        let known = SamplerKind::NAMES.join(", ");
        format!("there is no such scheduler; expected one of {known}")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn help_lists_every_sampler() {
        let mut cli = crate::cli::Cli::command();
        let sample = cli.find_subcommand_mut("sample").unwrap();
        let help = sample.render_long_help().to_string();
        // Lines are wrapped.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        for kind in SAMPLERS {
            assert!(help.contains(&format!("{} ({})", kind.name, kind.help)), "{kind:?}:\n{help}");
        }
        assert!(help.contains("[default: ddim]"), "{help}");
        for name in SamplerKind::with_karras() {
            assert!(karras().contains(name), "{name}");
        }
    }
}
