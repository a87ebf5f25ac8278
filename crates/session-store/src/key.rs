//! Names of records.
use std::fmt;

use bytes::Bytes;

use crate::StoreError;

/// Longest name of a record or topic, in bytes.
pub const MAX_KEY: usize = 512;

/// What a record is about. Tables share nothing but the store; each is listed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Reports and decisions of a pair.
    Pairs,
    /// Connections over their whole life.
    Sessions,
    /// Agents that enrolled.
    Agents,
    /// Enrolment tokens; see [`crate::tokens`].
    Tokens,
    /// Certificates that no longer count.
    Revocations,
    /// Proxies and relays, and what they hold.
    Relays,
}

impl Table {
    /// All tables.
    pub const ALL: [Table; 6] = [
        Table::Pairs,
        Table::Sessions,
        Table::Agents,
        Table::Tokens,
        Table::Revocations,
        Table::Relays,
    ];

    /// The table's name in backends that keep names.
    pub fn name(self) -> &'static str {
        match self {
            Table::Pairs => "pairs",
            Table::Sessions => "sessions",
            Table::Agents => "agents",
            Table::Tokens => "tokens",
            Table::Revocations => "revocations",
            Table::Relays => "relays",
        }
    }
}

/// The name of one record: a table and any 1 to [`MAX_KEY`] bytes.
///
/// Whoever can choose a name can file into the record of that name. A pair's name that is made of the pair ID **and**
/// both agents' identities keeps strangers who guessed a pair ID out of the record of that pair.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    table: Table,
    name: Bytes,
}

impl Key {
    /// A name in a table.
    ///
    /// # Errors
    /// [`StoreError::Key`] for an empty name and one that is too long.
    pub fn new(table: Table, name: impl Into<Bytes>) -> Result<Self, StoreError> {
        let name = name.into();
        check_name(&name)?;
        Ok(Key { table, name })
    }

    /// Before every key of the table.
    pub(crate) fn first(table: Table) -> Self {
        Key {
            table,
            name: Bytes::new(),
        }
    }

    /// The table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// The name in it.
    pub fn name(&self) -> &Bytes {
        &self.name
    }
}

/// Topics and agents are named under the same rule as records.
pub(crate) fn check_name(name: &[u8]) -> Result<(), StoreError> {
    match name.len() {
        1..=MAX_KEY => Ok(()),
        length => Err(StoreError::Key { length }),
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{:?}", self.table.name(), self.name)
    }
}
