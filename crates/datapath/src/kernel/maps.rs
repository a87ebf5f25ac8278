//! Maps of bytes, read and written as plain values.

use super::*;

pub(crate) fn update<V: Plain>(
    map: &dyn MapCore,
    name: &'static str,
    key: &[u8],
    value: &V,
) -> Result<(), DatapathError> {
    let length = map.value_size() as usize;
    let padded: Vec<u8>;
    let bytes = match value.bytes() {
        bytes if bytes.len() < length => {
            padded = [bytes, &vec![0; length - bytes.len()]].concat();
            &padded
        }
        bytes => bytes,
    };
    map.update(key, bytes, MapFlags::ANY)
        .map_err(|error| match error.kind() {
            ErrorKind::OutOfMemory => DatapathError::MapFull { map: name },
            _ if format!("{error:#}").contains("Argument list too long") => {
                DatapathError::MapFull { map: name }
            }
            _ => refused(&format!("cannot write to the map `{name}`"), error),
        })
}

pub(crate) fn find<V: Plain>(map: &dyn MapCore, key: &[u8]) -> Option<V> {
    map.lookup(key, MapFlags::ANY)
        .ok()
        .flatten()
        .and_then(|value| V::from_bytes(&value))
}

pub(crate) fn all<K: Plain, V: Plain>(map: &impl MapCore) -> impl Iterator<Item = (K, V)> {
    map.keys()
        .filter_map(|key| Some((K::from_bytes(&key)?, find(map, &key)?)))
}

pub(crate) fn remove(map: &dyn MapCore, key: &[u8]) {
    match map.delete(key) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "cannot remove an entry"),
    }
}

pub(crate) fn refused(what: &str, error: impl std::fmt::Display) -> DatapathError {
    DatapathError::Kernel {
        what: what.to_string(),
        error: format!("{error:#}"),
    }
}
