//! Shards: many candidates in a few files.
//!
//! A file a candidate does not scale: folders of millions of entries, and several operations of the
//! disk a picture. So above a size that the recipe names, candidates lie in shards of a fixed number:
//! candidate `p` is row `p % size` of shard `p / size`, whoever draws it. Pictures of a shard are a tar
//! as WebDataset has it (members `<key>.png`), latents one safetensors file, rows JSON lines. Shards
//! lie in folders of a bounded number of entries: `images/000/shard-000012.tar`.
//!
//! [`PictureStore`] and [`PictureWriter`] read and write pictures in either layout, [`RowStore`] and
//! [`RowsWriter`] latents. A shard that is being written is hidden (`.shard-000012.tar.partial`), holds
//! what is whole after a kill at any moment, and gets its name when it is complete.

mod index;
mod names;
mod pictures;
mod rows;
mod writer;

pub use names::{PER_FOLDER, list, path};
pub use pictures::{PictureStore, PictureWriter};
pub use rows::{RowStore, RowsWriter};
pub use writer::ShardWriter;

/// How a set of candidates lies on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// A file for each picture, one file for all latents.
    Files,
    /// So many candidates a shard, at least one.
    Shards(usize),
}

impl Layout {
    /// The layout of `count` candidates: shards of `size`, but files where they fit into one shard, or
    /// `size` is 0.
    pub fn of(count: usize, size: usize) -> Self {
        if size == 0 || count <= size { Self::Files } else { Self::Shards(size) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
