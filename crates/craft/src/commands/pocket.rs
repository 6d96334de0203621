//! `craft pocket build`, and the embedded models.

use std::path::PathBuf;

use craft_pocket_build::{Options, PARTS, build};

use crate::cli::PocketCommand;
use crate::exit::usage;
use crate::{console, interrupt};

/// The folder of the embedded models, unpacked if need be.
pub(super) fn assets() -> anyhow::Result<PathBuf> {
    Ok(crate::pocket_world::assets_dir()?)
}

/// Commands of the embedded world.
pub(super) fn pocket(command: &PocketCommand) -> anyhow::Result<()> {
    let PocketCommand::Build(args) = command;
    if let Some(part) = args.parts.iter().find(|part| !PARTS.contains(&part.as_str())) {
        let known = PARTS.join(", ");
        return Err(usage(format!(
            "`{part}` is not a part; expected some of {known}, or none for all"
        )));
    }
    if !(args.scale > 0.0 && args.scale <= 100.0) {
        return Err(usage(format!(
            "--scale is {}; expected a number above 0, at most 100",
            args.scale
        )));
    }
    let stop = interrupt::stop_flag()?;
    let options = Options { out: args.out.clone(), seed: args.seed, scale: args.scale, stop };
    build(&options, &args.parts)?;
    console::result(&format!("pocket models: {}", args.out.display()))
}
