//! Maps that an earlier agent pinned in another layout: another number of entries, shorter or longer values.
//!
//! A layout has a number. Within the range that two of them can read of one another, keys stay as they are, values
//! grow at their end, and a field that is zero means what its absence meant; so an entry is carried over by cutting
//! it or filling it up. What happens when the layouts differ, while connections carry traffic:
//!
//! 1. The new object is loaded with maps of its own beside those that do not fit; maps that fit are shared.
//! 2. Every entry is copied. The old programs go on with the old maps meanwhile.
//! 3. The new maps take the place of the old ones in the pin directory; the old ones are kept as `NAME-before`.
//! 4. The programs are replaced one by one, each in one step: whichever sees a segment has its connection's entry.
//! 5. What the old programs have written since the copy is copied too ([`Carried::finish`]), and the old maps go.
//!
//! An agent that dies on the way leaves `NAME-before`: the next one takes what is missing from there.

use std::collections::HashMap;
use std::path::{Path as FilePath, PathBuf};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType, OpenObject};

use super::OpenError;
use super::maps::find;
use crate::skeleton::{Plain, types as raw};

/// The number of this program's layout. It grows with every change of a pinned map.
pub const LAYOUT: u32 = 4;
/// The oldest layout whose entries this program can carry over, and which can carry over this one's.
pub const OLDEST_LAYOUT: u32 = 1;

/// Maps that are what the configuration says, and those with another life than their entries.
const NOT_COPIED: [&str; 2] = ["agent_config", "offer_to"];

/// How many connections the maps of one kind take for each connection that can migrate.
const TWICE: [&str; 3] = ["connections", "tokens", "arrivals"];
const ONCE: [&str; 3] = ["sessions", "wires", "legs"];

/// How maps are made, and which of them were pinned in another way.
pub(super) struct Plan {
    directory: PathBuf,
    others: Vec<Other>,
}

struct Other {
    name: String,
    old: MapHandle,
}

/// A map whose entries were carried over, until the last program of the old object is gone.
pub(super) struct Carried {
    pin: PathBuf,
    name: String,
    old: MapHandle,
    /// What was copied; none: the copy is another agent's, who did not come to the end.
    copied: Option<HashMap<Vec<u8>, Vec<u8>>>,
}

/// The layout of the maps that are pinned there, with the oldest that can be read as it; `None` without maps.
pub fn pinned_layout(directory: &FilePath) -> Option<(u32, u32)> {
    let map = MapHandle::from_pinned_path(directory.join("agent_config")).ok()?;
    let value = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).ok().flatten()?;
    let config = raw::config::from_bytes(&fitted(&value, size_of::<raw::config>()))?;
    // The first layout had no number.
    Some((config.layout.max(1), config.layout_oldest.max(1)))
}

impl Plan {
    /// Looks at what is pinned, before the object is loaded: what does not fit gets a place beside it.
    ///
    /// `padding`: bytes by which some values are longer, as in a later layout.
    pub(super) fn make(
        object: &mut OpenObject,
        directory: &FilePath,
        max_connections: u32,
        padding: u32,
    ) -> Result<Plan, OpenError> {
        let other_version = |error: String| OpenError::OtherVersion {
            path: directory.to_owned(),
            error,
        };
        if let Some((layout, oldest)) = pinned_layout(directory)
            && (oldest > LAYOUT || layout < OLDEST_LAYOUT)
        {
            return Err(other_version(format!(
                "they are of layout {layout}, this program reads {OLDEST_LAYOUT} to {LAYOUT}"
            )));
        }
        let mut others = Vec::new();
        for mut map in object.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            let refused = |error: libbpf_rs::Error| other_version(format!("`{name}`: {error:#}"));
            let entries = match name.as_str() {
                name if ONCE.contains(&name) => Some(max_connections),
                name if TWICE.contains(&name) => Some(max_connections.saturating_mul(2)),
                _ => None,
            };
            if let Some(entries) = entries {
                map.set_max_entries(entries).map_err(refused)?;
            }
            if padding > 0 && ["sessions", "tokens", "sources"].contains(&name.as_str()) {
                let size = map.value_size() + padding;
                map.set_value_size(size).map_err(refused)?;
            }
            let pin = directory.join(&name);
            if !pin.exists() {
                continue;
            }
            let old = MapHandle::from_pinned_path(&pin).map_err(refused)?;
            let same = old.value_size() == map.value_size() && old.max_entries() == map.max_entries();
            // Another kind of map, or other keys: the loader says so, and why.
            let alike = old.map_type() == map.map_type() && old.key_size() == map.key_size();
            // A socket's storage cannot be read without the socket.
            if same || !alike || map.map_type() == MapType::SkStorage {
                continue;
            }
            let fits = map.max_entries() as usize;
            let evicts = [MapType::LruHash, MapType::RingBuf, MapType::PercpuArray].contains(&map.map_type());
            if !evicts && old.max_entries() as usize > fits && old.keys().count() > fits {
                return Err(other_version(format!(
                    "`{name}` has more than the {fits} entries that would be left: raise `max_connections`"
                )));
            }
            let beside = beside(directory, &name, "next");
            let _ = std::fs::remove_file(&beside);
            map.set_pin_path(&beside).map_err(refused)?;
            others.push(Other { name, old });
        }
        Ok(Plan {
            directory: directory.to_owned(),
            others,
        })
    }

    /// Fills the maps of the loaded object, and puts them in the place of the old ones.
    pub(super) fn carry_over<'a>(
        self,
        maps: impl Iterator<Item = libbpf_rs::Map<'a>>,
    ) -> Result<Vec<Carried>, OpenError> {
        let directory = self.directory;
        let failed = |name: &str, error: String| OpenError::OtherVersion {
            path: directory.clone(),
            error: format!("`{name}`: {error}"),
        };
        let new: HashMap<String, libbpf_rs::Map<'a>> = maps
            .map(|map| (map.name().to_string_lossy().into_owned(), map))
            .collect();
        let mut carried = Vec::new();
        // All of it is copied before anything is put in its place: a copy that fails changes nothing.
        for Other { name, old } in self.others {
            let copied = match new.get(&name) {
                Some(map) => copy(&name, &old, map).map_err(|error| failed(&name, format!("{error:#}")))?,
                None => continue,
            };
            carried.push(Carried {
                pin: directory.join(&name),
                name,
                old,
                copied: Some(copied),
            });
        }
        for one in &mut carried {
            let before = beside(&directory, &one.name, "before");
            let _ = std::fs::remove_file(&before);
            let pinned = one.old.pin(&before).map_err(|error| format!("{error:#}"));
            pinned
                .and_then(|()| {
                    std::fs::rename(beside(&directory, &one.name, "next"), &one.pin)
                        .map_err(|error| error.to_string())
                })
                .map_err(|error| failed(&one.name, error))?;
        }
        // What an agent that died on the way has left.
        for name in new.keys() {
            if carried.iter().any(|one| one.name == *name) {
                continue;
            }
            if let Ok(old) = MapHandle::from_pinned_path(beside(&directory, name, "before")) {
                carried.push(Carried {
                    pin: directory.join(name),
                    name: name.clone(),
                    old,
                    copied: None,
                });
            }
        }
        Ok(carried)
    }
}

impl Carried {
    /// The map's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Its old form: what is still to be read from a ring.
    pub(super) fn old(&self) -> &MapHandle {
        &self.old
    }

    /// The old programs are gone: what they have changed since the copy follows, and the old map goes.
    pub(super) fn finish(self, new: &dyn MapCore) {
        if !NOT_COPIED.contains(&self.name.as_str()) && has_entries(new.map_type()) {
            self.follow(new);
        }
        let _ = std::fs::remove_file(self.pin.with_file_name(format!("{}-before", self.name)));
    }

    fn follow(&self, new: &dyn MapCore) {
        let flags = flags_of(&self.name);
        let size = new.value_size() as usize;
        let read = |map: &dyn MapCore, key: &[u8]| map.lookup(key, flags).ok().flatten();
        let nothing = HashMap::new();
        let copied = self.copied.as_ref().unwrap_or(&nothing);
        for key in self.old.keys() {
            let Some(now) = read(&self.old, &key) else {
                continue;
            };
            let then = copied.get(&key);
            let here = read(new, &key);
            // The new programs' word counts where both have written.
            let untouched = here.as_deref() == then.map(|then| fitted(then, size)).as_deref();
            if then != Some(&now)
                && untouched
                && let Err(error) = new.update(&key, &fitted(&now, size), MapFlags::ANY)
            {
                tracing::warn!(%error, map = self.name, "an entry is not carried over");
            }
        }
        for (key, then) in copied {
            let gone = read(&self.old, key).is_none();
            if gone && read(new, key).is_some_and(|here| here == fitted(then, size)) {
                let _ = new.delete(key);
            }
        }
    }
}

fn copy(
    name: &str,
    old: &MapHandle,
    new: &libbpf_rs::Map<'_>,
) -> Result<HashMap<Vec<u8>, Vec<u8>>, libbpf_rs::Error> {
    let mut copied = HashMap::new();
    let size = new.value_size() as usize;
    if new.map_type() == MapType::PercpuArray {
        for key in old.keys() {
            let index = key
                .first_chunk::<4>()
                .map_or(u32::MAX, |bytes| u32::from_ne_bytes(*bytes));
            let values = old.lookup_percpu(&key, MapFlags::ANY)?.unwrap_or_default();
            let values: Vec<Vec<u8>> = values.iter().map(|value| fitted(value, size)).collect();
            if index < new.max_entries() {
                new.update_percpu(&key, &values, MapFlags::ANY)?;
            }
        }
        return Ok(copied);
    }
    if name == "agent_config" {
        // One entry, of which the loader keeps what matters and writes the rest.
        let key = 0u32.to_ne_bytes();
        if let Some(value) = old.lookup(&key, MapFlags::ANY)? {
            new.update(&key, &fitted(&value, size), MapFlags::ANY)?;
        }
        return Ok(copied);
    }
    if NOT_COPIED.contains(&name) || !has_entries(new.map_type()) {
        return Ok(copied);
    }
    for key in old.keys() {
        // It may be gone by now.
        let Some(value) = old.lookup(&key, flags_of(name))? else {
            continue;
        };
        new.update(&key, &fitted(&value, size), MapFlags::ANY)?;
        copied.insert(key, value);
    }
    Ok(copied)
}

/// Cut, or filled up with zeros.
fn fitted(value: &[u8], size: usize) -> Vec<u8> {
    let mut value = value.to_vec();
    value.resize(size, 0);
    value
}

fn has_entries(kind: MapType) -> bool {
    [MapType::Hash, MapType::LruHash, MapType::Array].contains(&kind)
}

/// The only map whose entries change in more than one field at a time while others read them has a lock.
fn flags_of(name: &str) -> MapFlags {
    match name {
        "wires" => MapFlags::LOCK,
        _ => MapFlags::ANY,
    }
}

/// BPF file systems take no dots in names.
fn beside(directory: &FilePath, name: &str, what: &str) -> PathBuf {
    directory.join(format!("{name}-{what}"))
}

/// What was in a ring of another size, told once.
pub(super) fn drain(old: &MapHandle, mut take: impl FnMut(&[u8]) + 'static) {
    let mut builder = libbpf_rs::RingBufferBuilder::new();
    let added = builder.add(old, move |bytes| {
        take(bytes);
        0
    });
    let read = added
        .map(|_| ())
        .and_then(|()| builder.build())
        .and_then(|ring| ring.consume());
    if let Err(error) = read {
        tracing::warn!(%error, "cannot read what was told before the upgrade");
    }
}

/// The settings in force, whatever layout they were written in.
pub(super) fn settings_before(map: &dyn MapCore) -> raw::config {
    find(map, &0u32.to_ne_bytes()).unwrap_or_else(Plain::zeroed)
}
