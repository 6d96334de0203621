//! Where the page takes its pictures from: embedded while they are small and few, copied beside the page otherwise.

use std::path::{Component, Path, PathBuf};

use base64::Engine as _;
use craft_store::{PictureStore, StoreError, input};

use crate::{ReportError, write};

/// A file larger than this is copied, not embedded.
const EMBED_FILE_BYTES: u64 = 48 * 1024;
/// Bytes of a page that pictures and rows may take together.
const PAGE_BYTES: u64 = 9_000_000;
/// How many broken pictures are named one by one.
const NAMED: usize = 8;

/// Hands out picture addresses and remembers what could not be shown.
pub(crate) struct Pictures {
    run_dir: PathBuf,
    report_dir: PathBuf,
    /// Bytes that embedded pictures may still take.
    room: u64,
    broken: Vec<String>,
    broken_count: usize,
}

/// How the pictures of one stage reach the page.
pub(crate) struct PictureSet {
    stage: String,
    embed: bool,
    /// Where the stage's pictures lie in shards.
    shards: Option<PictureStore>,
}

impl Pictures {
    /// Creates `report/` and clears the pictures of an earlier report. `rows` are the bytes that the
    /// page takes without pictures, about.
    pub(crate) fn new(run_dir: &Path, report_dir: &Path, rows: u64) -> Result<Self, ReportError> {
        write::folder(report_dir)?;
        let old = report_dir.join("images");
        write::no_link(&old)?;
        craft_store::atomic::remove_tree(&old)?;
        Ok(Self {
            run_dir: run_dir.to_path_buf(),
            report_dir: report_dir.to_path_buf(),
            room: PAGE_BYTES.saturating_sub(rows),
            broken: Vec::new(),
            broken_count: 0,
        })
    }

    /// Looks at the sizes of the shown pictures of a stage and decides between embedding and copying.
    pub(crate) fn set<'a>(
        &mut self,
        stage: &str,
        names: impl Iterator<Item = &'a str>,
    ) -> PictureSet {
        let stage = stage.to_owned();
        match PictureStore::open(&self.run_dir.join(&stage).join("images")) {
            Ok(store) if store.is_sharded() => {
                return PictureSet { stage, embed: false, shards: Some(store) };
            }
            Ok(_) => {}
            Err(error) => self.note(format!("{stage}/images: {}", error.reason())),
        }
        let (mut total, mut largest) = (0u64, 0u64);
        for name in names.filter(|n| is_inside(n)) {
            let size = input::size(&self.run_dir.join(&stage).join(name));
            total += size.div_ceil(3) * 4;
            largest = largest.max(size);
        }
        let embed = largest <= EMBED_FILE_BYTES && total <= self.room;
        if embed {
            self.room -= total;
        }
        PictureSet { stage, embed, shards: None }
    }

    /// The address of one picture for an `src` attribute, or `None` (and a note) when it cannot be shown.
    pub(crate) fn address(
        &mut self,
        set: &PictureSet,
        name: &str,
    ) -> Result<Option<String>, ReportError> {
        if !is_inside(name) {
            self.note(format!("{}: the picture path `{name}` leaves the folder", set.stage));
            return Ok(None);
        }
        let bytes = match self.bytes(set, name) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.note(format!("{}/{name}: {}", set.stage, e.reason()));
                return Ok(None);
            }
        };
        let Some(kind) = kind(&bytes) else {
            self.note(format!(
                "{}/{name} is neither a whole PNG nor a JPEG or WebP picture",
                set.stage
            ));
            return Ok(None);
        };
        if set.embed {
            let data = base64::engine::general_purpose::STANDARD.encode(&bytes);
            return Ok(Some(format!("data:{kind};base64,{data}")));
        }
        let relative =
            format!("images/{}/{}", set.stage, name.strip_prefix("images/").unwrap_or(name));
        let target = self.report_dir.join(&relative);
        if let Some(parent) = target.parent() {
            craft_store::atomic::create_dir(parent)?;
        }
        let source = self.run_dir.join(&set.stage).join(name);
        match () {
            () if target.exists() => {}
            // A second name takes no space.
            () if set.shards.is_none() && !source.is_symlink() => {
                craft_store::atomic::link_or_copy(&source, &target)?;
            }
            () => write::file(&target, &bytes)?,
        }
        Ok(Some(url(&relative)))
    }

    fn bytes(&self, set: &PictureSet, name: &str) -> Result<Vec<u8>, StoreError> {
        let path = self.run_dir.join(&set.stage).join(name);
        match &set.shards {
            Some(store) => {
                let key = path.file_stem().unwrap_or_default().to_string_lossy();
                store.bytes(&key)
            }
            None => input::read(&path, craft_store::image::MAX_BYTES),
        }
    }

    /// One line per broken picture, the first few by name.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut out = self.broken.clone();
        if self.broken_count > self.broken.len() {
            out.push(format!(
                "and {} more pictures that cannot be shown",
                self.broken_count - self.broken.len()
            ));
        }
        out
    }

    fn note(&mut self, text: String) {
        self.broken_count += 1;
        if self.broken.len() < NAMED {
            self.broken.push(text);
        }
    }
}

/// Whether a relative path stays inside the folder it is relative to.
fn is_inside(name: &str) -> bool {
    !name.is_empty()
        && Path::new(name)
            .components()
            .all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

fn kind(bytes: &[u8]) -> Option<&'static str> {
    let png = bytes.starts_with(b"\x89PNG\r\n\x1a\n") && bytes.ends_with(b"IEND\xaeB`\x82");
    let jpeg = bytes.starts_with(&[0xff, 0xd8, 0xff]);
    let webp = bytes.len() > 12 && bytes.starts_with(b"RIFF") && &bytes[8..12] == b"WEBP";
    match (png, jpeg, webp) {
        (true, _, _) => Some("image/png"),
        (_, true, _) => Some("image/jpeg"),
        (_, _, true) => Some("image/webp"),
        _ => None,
    }
}

/// Percent-encodes what may not stand in a relative address.
fn url(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for b in path.replace('\\', "/").bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                out.push(char::from(b))
            }
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_inside() {
        assert!(
            is_inside("images/a.png")
                && !is_inside("../a.png")
                && !is_inside("/etc/x")
                && !is_inside("")
        );
        assert_eq!(url("images/a b#c.png"), "images/a%20b%23c.png");
    }
}
