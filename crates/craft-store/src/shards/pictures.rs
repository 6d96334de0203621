//! Pictures in either layout behind one interface.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::index::{self, Index};
use super::writer::ShardWriter;
use super::{Layout, names};
use crate::atomic;
use crate::error::{Result, StoreError};
use crate::image::{self, RgbImage};
use crate::input;

/// The pictures of a folder: one `<id>.png` each, or shards. May be shared between threads.
#[derive(Debug)]
pub struct PictureStore {
    folder: PathBuf,
    /// Where there are shards.
    index: Option<Index>,
}

impl PictureStore {
    /// Opens the pictures of a folder. Of shards, the headers of all members are read.
    ///
    /// # Errors
    /// When a shard is missing between others, cut short or damaged, or has a picture of another one.
    pub fn open(folder: &Path) -> Result<Self> {
        let index = Index::read(folder)?;
        let index = Some(index).filter(|index| index.len() > 0);
        Ok(Self { folder: folder.to_owned(), index })
    }

    /// Whether the pictures lie in shards.
    pub fn is_sharded(&self) -> bool {
        self.index.is_some()
    }

    /// Whether there is a picture of an id.
    pub fn exists(&self, id: &str) -> bool {
        match &self.index {
            Some(index) => index.has(id),
            None => self.file(id).is_file(),
        }
    }

    /// The bytes of a picture's PNG.
    ///
    /// # Errors
    /// When there is none, or its file or shard cannot be read.
    pub fn bytes(&self, id: &str) -> Result<Vec<u8>> {
        match &self.index {
            Some(_) => self.of_shard(id).map(|(_, bytes)| bytes),
            None => input::read(&self.file(id), image::MAX_BYTES),
        }
    }

    /// A picture.
    ///
    /// # Errors
    /// The same, and when it is damaged; names the file, or the shard and its member.
    pub fn read(&self, id: &str) -> Result<RgbImage> {
        match &self.index {
            Some(_) => {
                let (shard, bytes) = self.of_shard(id)?;
                decode(shard, id, &bytes)
            }
            None => image::read(&self.file(id)),
        }
    }

    /// Calls with id and bytes of every picture, one in memory at a time: in the order of shards and
    /// members, or of files' names.
    ///
    /// # Errors
    /// When one cannot be read, and what `visit` returns.
    pub fn each<E: From<StoreError>>(
        &self,
        mut visit: impl FnMut(&str, Vec<u8>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        if let Some(index) = &self.index {
            return index.each(visit);
        }
        for path in atomic::list(&self.folder)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let id = name.strip_suffix(".png").filter(|id| !id.starts_with('.'));
            if let Some(id) = id {
                visit(id, input::read(&path, image::MAX_BYTES)?)?;
            }
        }
        Ok(())
    }

    fn file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.png"))
    }

    fn of_shard(&self, id: &str) -> Result<(&Path, Vec<u8>)> {
        let found = self.index.as_ref().map(|index| index.bytes(id)).transpose()?.flatten();
        found.ok_or_else(|| {
            StoreError::bad(
                &self.folder,
                format!(
                    "no shard holds the picture {id}.png: expected one of every candidate; put the shards back from a copy, or remove the stage's folder and run the same command as before"
                ),
            )
        })
    }
}

fn decode(shard: &Path, id: &str, bytes: &[u8]) -> Result<RgbImage> {
    image::decode(bytes)
        .map_err(|message| StoreError::bad(shard, format!("member {id}.png: {message}")))
}

/// Writes the pictures of a set, each at its place in the order of the set. May be shared between
/// threads; in shards, pictures that come in order are never copied.
///
/// Call [`PictureWriter::has`] for the pictures that are to be, which finds those that an interrupted
/// attempt left, then [`PictureWriter::put`] for those that are not there. A shard gets its name as soon
/// as it is complete.
#[derive(Debug)]
pub struct PictureWriter {
    folder: PathBuf,
    layout: Layout,
    /// Pictures of the whole set.
    count: usize,
    open: Mutex<BTreeMap<usize, Open>>,
}

type Shards<'a> = MutexGuard<'a, BTreeMap<usize, Open>>;

/// A shard that was asked about.
#[derive(Debug)]
struct Open {
    /// Ids by row, as far as they were named.
    ids: Vec<Option<String>>,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Complete, with these keys.
    Finished(BTreeSet<String>),
    Writing(ShardWriter),
}

/// Finished shards whose keys are kept at a time.
const KEPT: usize = 4;

impl PictureWriter {
    /// Opens a folder, which is made if it is not there, for a set of `count` pictures.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(folder: &Path, layout: Layout, count: usize) -> Result<Self> {
        atomic::create_dir(folder)?;
        Ok(Self { folder: folder.to_owned(), layout, count, open: Mutex::default() })
    }

    fn lock(&self) -> Shards<'_> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.png"))
    }

    /// Whether the picture at a place is there and whole.
    ///
    /// # Errors
    /// When its shard cannot be read.
    pub fn has(&self, place: usize, id: &str) -> Result<bool> {
        let Layout::Shards(size) = self.layout else {
            return Ok(image::is_whole_png(&self.file(id)));
        };
        let (number, mut all) = self.named(place, id, size.max(1))?;
        let has = all.get(&number).is_some_and(|open| match &open.state {
            State::Finished(keys) => keys.contains(id),
            State::Writing(shard) => shard.has(id),
        });
        self.finish_complete(number, &mut all)?;
        Ok(has)
    }

    /// Writes the PNG of a picture at its place.
    ///
    /// # Errors
    /// When the id cannot be a name or the disk refuses.
    pub fn put(&self, place: usize, id: &str, png: &[u8]) -> Result<()> {
        let Layout::Shards(size) = self.layout else {
            return atomic::write(&self.file(id), png);
        };
        let (number, mut all) = self.named(place, id, size.max(1))?;
        if let Some(open) = all.get_mut(&number) {
            if let State::Finished(_) = open.state {
                open.state = State::Writing(ShardWriter::open(&self.path(number))?);
            }
            if let State::Writing(shard) = &mut open.state {
                shard.put(id, png)?;
            }
        }
        self.finish_complete(number, &mut all)
    }

    fn path(&self, shard: usize) -> PathBuf {
        names::path(&self.folder, shard, "tar")
    }

    /// Opens the shard of a place, if it is not open, and notes the id there.
    fn named(&self, place: usize, id: &str, size: usize) -> Result<(usize, Shards<'_>)> {
        let (number, row) = (place / size, place % size);
        let rows = self.count.saturating_sub(number * size).min(size);
        let path = self.path(number);
        let mut all = self.lock();
        if !all.contains_key(&number) {
            let finished = |open: &Open| matches!(open.state, State::Finished(_));
            if all.values().filter(|open| finished(open)).count() >= KEPT {
                all.retain(|_, open| !finished(open));
            }
            atomic::create_dir(atomic::parent_of(&path))?;
            // A finished shard that is damaged is gone on with: what is whole in it is kept.
            let state = match path.exists().then(|| index::keys(&path)) {
                Some(Ok(keys)) => State::Finished(keys),
                _ => State::Writing(ShardWriter::open(&path)?),
            };
            all.insert(number, Open { ids: vec![None; rows], state });
        }
        match all.get_mut(&number).and_then(|open| open.ids.get_mut(row)) {
            Some(slot) => *slot = Some(id.to_owned()),
            None => {
                let message = format!("picture `{id}` has place {place} of {}", self.count);
                return Err(StoreError::bad(&path, message));
            }
        }
        Ok((number, all))
    }

    /// Gives a shard its name if all its pictures are there.
    fn finish_complete(&self, number: usize, all: &mut Shards<'_>) -> Result<()> {
        let complete = all.get(&number).is_some_and(|open| {
            let State::Writing(shard) = &open.state else { return false };
            shard.len() == open.ids.len() && open.ids.iter().all(Option::is_some)
        });
        if !complete {
            return Ok(());
        }
        let Some(Open { ids, state }) = all.remove(&number) else { return Ok(()) };
        let ids: Vec<String> = ids.into_iter().flatten().collect();
        if let State::Writing(shard) = state {
            shard.finish(&ids)?;
        }
        let keys = ids.iter().cloned().collect();
        let ids = ids.into_iter().map(Some).collect();
        all.insert(number, Open { ids, state: State::Finished(keys) });
        Ok(())
    }

    /// Flushes to the device what was written.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<()> {
        self.lock().values_mut().try_for_each(|open| match &mut open.state {
            State::Writing(shard) => shard.sync(),
            State::Finished(_) => Ok(()),
        })
    }

    /// Checks that every shard got its name.
    ///
    /// # Errors
    /// Names the first one that is not complete.
    pub fn finish(self) -> Result<()> {
        let Layout::Shards(size) = self.layout else { return Ok(()) };
        let shards = self.count.div_ceil(size.max(1));
        match (0..shards).map(|number| self.path(number)).find(|path| !path.exists()) {
            None => Ok(()),
            Some(path) => Err(StoreError::bad(
                &path,
                "the shard is not complete: expected all its pictures; run the same command again",
            )),
        }
    }
}
