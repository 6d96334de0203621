//! The JSON header of a safetensors file.
//!
//! The format forbids a name to occur twice, which a reader that fills a map does not notice. Names are
//! counted while they are read, so that a header of millions is refused before it fills the memory.

use std::collections::HashMap;
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer, Error, MapAccess, Visitor};

use crate::text::shorten;

/// Most tensors of a file, as of a file of `torch.save`; the largest checkpoints have some thousands.
const MAX_TENSORS: usize = 100_000;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 1024;

/// Reads and checks a header.
///
/// # Errors
/// The reason, when it is not JSON of that form, a name occurs twice, or the tensors do not follow each
/// other without gaps.
pub(super) fn parse(bytes: &[u8]) -> Result<Metadata, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let Entries { texts, mut tensors } = json
        .deserialize_map(Names)
        .and_then(|entries| json.end().map(|()| entries))
        .map_err(|error| shorten(&error.to_string()))?;
    tensors.sort_by(|(a, at), (b, bt)| (at.data_offsets, a).cmp(&(bt.data_offsets, b)));
    Metadata::new(texts, tensors).map_err(|error| shorten(&error.to_string()))
}

struct Entries {
    texts: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Entries;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entries, A::Error> {
        let mut entries = Entries { texts: None, tensors: Vec::new() };
        let mut places: HashMap<String, ()> = HashMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if name.len() > MAX_NAME_BYTES {
                let name = shorten(&name);
                return Err(Error::custom(format!(
                    "a name has more than {MAX_NAME_BYTES} bytes: `{name}`"
                )));
            }
            if places.insert(name.clone(), ()).is_some() {
                return Err(Error::custom(format!("a name occurs twice: `{name}`")));
            }
            if name == "__metadata__" {
                entries.texts = Some(map.next_value()?);
                continue;
            }
            if entries.tensors.len() >= MAX_TENSORS {
                return Err(Error::custom(format!("it names more than {MAX_TENSORS} tensors")));
            }
            entries.tensors.push((name, map.next_value()?));
        }
        Ok(entries)
    }
}
