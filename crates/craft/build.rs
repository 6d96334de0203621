//! Lists the files of `assets/pocket`, so that the binary can carry them. A build without them works;
//! the binary then has no embedded models and says so.

// It runs before any crate of the workspace is there.
#![allow(clippy::disallowed_methods)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let missing = |name| io::Error::other(format!("cargo does not set {name}"));
    let root = env::var_os("CARGO_MANIFEST_DIR").ok_or_else(|| missing("CARGO_MANIFEST_DIR"))?;
    let out = env::var_os("OUT_DIR").ok_or_else(|| missing("OUT_DIR"))?;
    let assets = Path::new(&root).join("../../assets/pocket");
    // While the folder is not there cargo runs this at every build, so that it is seen when it comes.
    println!("cargo::rerun-if-changed={}", assets.display());
    let mut files = Vec::new();
    // Only a whole set is embedded: the model's index is what the builder writes after the denoiser.
    if assets.join("model_index.json").is_file() {
        walk(&assets, "", &mut files)?;
    }
    files.sort();
    let mut code = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for (name, path) in files {
        let path = fs::canonicalize(path)?;
        writeln!(code, "    ({name:?}, include_bytes!({path:?})),").map_err(io::Error::other)?;
    }
    code.push_str("];\n");
    fs::write(Path::new(&out).join("pocket_files.rs"), code)
}

/// Files that models are read from; no hidden ones, no pages or pictures about them.
fn walk(dir: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let Some(name) = path.file_name().and_then(|n| n.to_str()) else { continue };
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), files)?;
        } else if [".json", ".txt", ".safetensors"].iter().any(|end| name.ends_with(end)) {
            files.push((format!("{prefix}{name}"), path));
        }
    }
    Ok(())
}
