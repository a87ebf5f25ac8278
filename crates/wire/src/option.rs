//! The options area of a TCP header: a checked view that finds our options among all others.
//!
//! [`Options`] walks the area without trusting it; every step yields an [`OptionRef`] or ends the walk with an
//! [`OptionError`]. [`OptionRef::migrate`] then turns the options of this protocol into values and leaves those
//! of others alone. The walk is our own because the iterators of the packet libraries stop at the first kind
//! they do not know, and kind 253 is one of these.
//!
//! Our options share kind 253 with other experiments and are told apart by an experiment identifier (RFC 6994).

use crate::permit::Permit;
use crate::request::Request;

/// The option kind for experiments (RFC 4727).
pub const KIND: u8 = 253;
/// The experiment identifier of connection migration (RFC 6994): "MI".
pub const EXPERIMENT: u16 = 0x4d49;
/// The version of the option layouts.
pub const VERSION: u8 = 1;
/// The most that fits into the options area of a TCP header, in bytes.
pub const MAX_AREA: usize = 40;

/// Kinds without a length byte (RFC 9293, 3.1).
const END_OF_LIST: u8 = 0;
const NO_OPERATION: u8 = 1;

/// Why options cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OptionError {
    /// The option has another length than its layout.
    #[error("TCP option of {got} bytes where its layout has {expected}")]
    Length {
        /// What the layout says, in bytes.
        expected: usize,
        /// What the option's length byte says or the area holds, in bytes.
        got: usize,
    },
    /// The length byte is missing or counts less than kind and length byte.
    #[error("TCP option {kind} has no valid length")]
    NoLength {
        /// The option's kind.
        kind: u8,
    },
    /// The option ends behind the end of the options area.
    #[error("TCP option {kind} claims {claimed} bytes where {left} are left")]
    Overrun {
        /// The option's kind.
        kind: u8,
        /// What its length byte says, in bytes.
        claimed: usize,
        /// What is left of the area, in bytes.
        left: usize,
    },
    /// The peer speaks another version of the protocol.
    #[error(
        "migration option of version {got}; this host speaks version {VERSION}, upgrade the older of the two"
    )]
    Version {
        /// The version in the option.
        got: u8,
    },
    /// No option of this version has this type.
    #[error("migration option of unknown type {got}")]
    Type {
        /// The type in the option.
        got: u8,
    },
    /// The bytes are an option, but none of connection migration.
    #[error("TCP option {kind} is not a migration option")]
    Foreign {
        /// The option's kind.
        kind: u8,
    },
    /// A second option of the same kind; which of them counts would be a matter of taste.
    #[error("two migration options of the same kind in one segment")]
    Duplicate,
}

/// All options of an options area, end-of-list and padding excluded; ends after the first error.
#[derive(Clone, Debug)]
pub struct Options<'a> {
    rest: &'a [u8],
}

impl<'a> Options<'a> {
    /// The options in `area`: what lies between the fixed TCP header and the payload.
    pub fn of(area: &'a [u8]) -> Self {
        Self { rest: area }
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = Result<OptionRef<'a>, OptionError>;

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.rest.iter().position(|&kind| kind != NO_OPERATION)?;
        let area = std::mem::take(&mut self.rest).split_at(start).1;
        let &kind = area.first().filter(|&&kind| kind != END_OF_LIST)?;
        let claimed = match area.get(1) {
            Some(&length) if length >= 2 => usize::from(length),
            _ => return Some(Err(OptionError::NoLength { kind })),
        };
        match area.split_at_checked(claimed) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Some(Ok(OptionRef { bytes }))
            }
            None => Some(Err(OptionError::Overrun {
                kind,
                claimed,
                left: area.len(),
            })),
        }
    }
}

/// One option: at least kind and length byte, and exactly as long as its length byte says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OptionRef<'a> {
    bytes: &'a [u8],
}

impl<'a> OptionRef<'a> {
    /// The option's kind.
    pub fn kind(&self) -> u8 {
        self.bytes[0]
    }

    /// What follows kind and length byte.
    pub fn data(&self) -> &'a [u8] {
        &self.bytes[2..]
    }

    /// The whole option, kind and length byte included.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// This option as one of ours; none if it is an option of somebody else.
    ///
    /// # Errors
    /// It is ours and its length, version or type is not, or it is of kind 253 and too short to say whose it is.
    pub fn migrate(&self) -> Result<Option<MigrateOption>, OptionError> {
        match MigrateOption::parse(self.bytes) {
            Ok(option) => Ok(Some(option)),
            Err(OptionError::Foreign { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An option of connection migration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MigrateOption {
    /// Type 0.
    Permit(Permit),
    /// Types 1 to 6.
    Request(Request),
}

impl MigrateOption {
    /// Reads an option from its bytes, kind and length byte included.
    ///
    /// # Errors
    /// See [`OptionError`]; [`OptionError::Foreign`] for an option of another protocol.
    pub fn parse(bytes: &[u8]) -> Result<Self, OptionError> {
        match Head::parse(bytes)?.r#type {
            Permit::TYPE => Permit::parse(bytes).map(Self::Permit),
            _ => Request::parse(bytes).map(Self::Request),
        }
    }
}

/// What all our options begin with: kind, length, experiment, version and type.
pub(crate) struct Head {
    pub(crate) r#type: u8,
}

impl Head {
    /// Kind, length byte, experiment identifier, version and type, in bytes.
    const LEN: usize = 5;

    pub(crate) fn parse(bytes: &[u8]) -> Result<Head, OptionError> {
        let too_short = OptionError::Length {
            expected: Self::LEN,
            got: bytes.len(),
        };
        let &kind = bytes.first().ok_or(too_short)?;
        if kind != KIND {
            return Err(OptionError::Foreign { kind });
        }
        let &[length, high, low, ref rest @ ..] = &bytes[1..] else {
            return Err(too_short);
        };
        if usize::from(length) != bytes.len() {
            return Err(OptionError::Length {
                expected: usize::from(length),
                got: bytes.len(),
            });
        }
        if u16::from_be_bytes([high, low]) != EXPERIMENT {
            return Err(OptionError::Foreign { kind });
        }
        let &version_type = rest.first().ok_or(too_short)?;
        match version_type >> 4 {
            VERSION => Ok(Head {
                r#type: version_type & 0xf,
            }),
            got => Err(OptionError::Version { got }),
        }
    }

    /// The first five bytes of an option of this length and type.
    pub(crate) fn bytes(length: usize, r#type: u8) -> [u8; Self::LEN] {
        let [high, low] = EXPERIMENT.to_be_bytes();
        [KIND, length as u8, high, low, version_type(r#type)]
    }
}

/// The byte that holds version and type.
pub(crate) fn version_type(r#type: u8) -> u8 {
    VERSION << 4 | r#type & 0xf
}
