//! Between this object's types and the other's, and taking away what was pinned.

use std::path::Path;

use crate::skeleton::{Plain, relay_types as relay, types as mobility};

/// Both objects have the same `struct tuple`.
pub(super) fn tuple(value: &mobility::tuple) -> relay::tuple {
    relay::tuple::from_bytes(value.bytes()).unwrap_or_else(Plain::zeroed)
}

pub(super) fn tuple_back(value: &relay::tuple) -> mobility::tuple {
    mobility::tuple::from_bytes(value.bytes()).unwrap_or_else(Plain::zeroed)
}

/// Both objects have the same `struct path`.
pub(super) fn path(value: &mobility::path) -> relay::path {
    relay::path::from_bytes(value.bytes()).unwrap_or_else(Plain::zeroed)
}

pub(super) fn path_back(value: &relay::path) -> mobility::path {
    mobility::path::from_bytes(value.bytes()).unwrap_or_else(Plain::zeroed)
}

/// Removes what a relay pinned below `pin_dir`: every relayed connection ends. Says whether there was anything.
///
/// # Errors
/// Something cannot be removed.
pub fn clean_up(pin_dir: &Path) -> std::io::Result<bool> {
    match std::fs::remove_dir_all(pin_dir) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
