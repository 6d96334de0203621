//! Folders that say of themselves whether they are whole: a list of their files with length and hash.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Result, StoreError};
use crate::hash::{files_below, sha256_file};
use crate::manifest::{Output, read_json, write_json};

/// Name of the list in its folder.
pub const SEAL_FILE: &str = "files.json";

#[derive(Serialize, Deserialize)]
struct Seal {
    files: BTreeMap<String, Output>,
}

/// Lists the files of a folder that is complete.
///
/// # Errors
/// When one cannot be read or the list cannot be written.
pub fn seal(dir: &Path) -> Result<()> {
    let mut files = BTreeMap::new();
    for name in files_below(dir)?.into_iter().filter(|name| name != SEAL_FILE) {
        let path = dir.join(&name);
        let bytes = fs::metadata(&path).map_err(StoreError::io("read", &path))?.len();
        files.insert(name, Output { bytes, sha256: sha256_file(&path)? });
    }
    write_json(&dir.join(SEAL_FILE), &Seal { files })
}

/// Why a folder is not as it was sealed; `None` if it is.
pub fn damage(dir: &Path) -> Option<String> {
    let seal: Seal = match read_json(&dir.join(SEAL_FILE)) {
        Ok(seal) => seal,
        Err(_) => return Some(format!("its list {SEAL_FILE} is missing or damaged")),
    };
    seal.files.iter().find_map(|(name, output)| {
        let path = dir.join(name);
        let Ok(meta) = fs::symlink_metadata(&path) else {
            return Some(format!("{name} is missing"));
        };
        if meta.len() < output.bytes {
            return Some(format!("{name} is cut short"));
        }
        let same = meta.len() == output.bytes
            && sha256_file(&path).is_ok_and(|hash| hash == output.sha256);
        (!same).then(|| format!("{name} was changed or damaged after it was written"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn any_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("unet")).unwrap();
        for name in ["state.json", "unet/weights"] {
            fs::write(dir.join(name), "content").unwrap();
        }
        assert!(damage(dir).unwrap().contains("files.json"));
        seal(dir).unwrap();
        assert_eq!(damage(dir), None);
        for (change, word) in
            [("cont", "cut short"), ("c0ntent", "changed"), ("contents", "changed")]
        {
            fs::write(dir.join("unet/weights"), change).unwrap();
            let why = damage(dir).unwrap();
            assert!(why.contains("unet/weights") && why.contains(word), "{why}");
        }
        fs::remove_file(dir.join("unet/weights")).unwrap();
        assert!(damage(dir).unwrap().contains("missing"));
        // Every bit of the list, too.
        fs::write(dir.join("unet/weights"), "content").unwrap();
        let whole = fs::read(dir.join(SEAL_FILE)).unwrap();
        for place in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[place] ^= 4;
            fs::write(dir.join(SEAL_FILE), &bytes).unwrap();
            assert!(damage(dir).is_some(), "byte {place}");
        }
    }
}
