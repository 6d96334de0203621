//! Builds parts of the pocket models: `build OUT [SCALE [PART…]]`.

use std::error::Error;
use std::path::PathBuf;

use craft_pocket_build::{Options, build};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_target(false).init();
    let mut args = std::env::args().skip(1);
    let out = PathBuf::from(args.next().ok_or("usage: build OUT [SCALE [PART…]]")?);
    let scale = args.next().map_or(Ok(1.0), |s| s.parse())?;
    let parts: Vec<String> = args.collect();
    build(&Options { out, seed: 1, scale }, &parts)?;
    Ok(())
}
