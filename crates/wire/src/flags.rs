//! The flags byte of a TCP header.

use std::fmt;
use std::ops::{BitAnd, BitOr};

use pnet::packet::tcp::TcpFlags;

/// A set of TCP flags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Flags = Flags(TcpFlags::FIN);
    /// Synchronise sequence numbers.
    pub const SYN: Flags = Flags(TcpFlags::SYN);
    /// The connection is gone.
    pub const RST: Flags = Flags(TcpFlags::RST);
    /// Hand the data to the application.
    pub const PSH: Flags = Flags(TcpFlags::PSH);
    /// The acknowledgement number counts.
    pub const ACK: Flags = Flags(TcpFlags::ACK);
    /// The urgent pointer counts.
    pub const URG: Flags = Flags(TcpFlags::URG);
    /// ECN echo.
    pub const ECE: Flags = Flags(TcpFlags::ECE);
    /// Congestion window reduced.
    pub const CWR: Flags = Flags(TcpFlags::CWR);
    /// The six flags of RFC 793: all but those of ECN.
    pub const CLASSIC: Flags = Flags(0x3f);

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: Flags) -> bool {
        self & other == other
    }

    /// These flags without those of `other`.
    pub fn without(self, other: Flags) -> Flags {
        Flags(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Flags;
    fn bitor(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }
}

impl BitAnd for Flags {
    type Output = Flags;
    fn bitand(self, other: Flags) -> Flags {
        Flags(self.0 & other.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LETTERS: [(Flags, &str); 8] = [
            (Flags::FIN, "F"),
            (Flags::SYN, "S"),
            (Flags::RST, "R"),
            (Flags::PSH, "P"),
            (Flags::ACK, "."),
            (Flags::URG, "U"),
            (Flags::ECE, "E"),
            (Flags::CWR, "W"),
        ];
        if self.0 == 0 {
            return f.write_str("none");
        }
        LETTERS
            .iter()
            .filter(|(flag, _)| self.contains(*flag))
            .try_for_each(|(_, letter)| f.write_str(letter))
    }
}

impl fmt::Debug for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Flags[{self}]")
    }
}
