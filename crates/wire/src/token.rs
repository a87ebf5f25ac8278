//! Tokens: what names a connection in a Migrate-Request, whatever its addresses are by now.
//!
//! Each committed resumption gives the connection its next token ([`crate::ConnectionKeys::token`]), so that
//! nobody who sees two resumptions in two networks can tell that they belong together. Tokens of different
//! connections can collide; the MAC tells them apart.

use std::fmt;

/// The name of a connection between two resumptions.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Token(pub u32);

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({self})")
    }
}
