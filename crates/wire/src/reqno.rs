//! Request numbers: which attempt to resume a connection this is.
//!
//! Both ends may start an attempt at the same moment. So that their numbers never meet, the initiator of the
//! connection takes even numbers and the acceptor odd ones; each takes the smallest of its own that is greater
//! than every number it has seen on the connection. Zero stands for a connection that has never moved.

use std::fmt;

use crate::keys::Role;

/// The number of an attempt to resume a connection; 0: never moved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ReqNo(pub u32);

impl ReqNo {
    /// The connection has never moved.
    pub const UNMOVED: ReqNo = ReqNo(0);

    /// The smallest number of `role` that is greater than `highest_seen`.
    ///
    /// # Errors
    /// [`ReqNoError::Exhausted`] when no such number fits into 32 bits: the connection stays where it is.
    pub fn next_for(role: Role, highest_seen: ReqNo) -> Result<ReqNo, ReqNoError> {
        let step = match Role::of_number(highest_seen.0) == role {
            true => 2,
            false => 1,
        };
        let next = highest_seen
            .0
            .checked_add(step)
            .ok_or(ReqNoError::Exhausted { role, highest_seen })?;
        Ok(ReqNo(next))
    }

    /// Who chose this number; none for [`ReqNo::UNMOVED`], which nobody chose.
    pub fn role(self) -> Option<Role> {
        (self != ReqNo::UNMOVED).then(|| Role::of_number(self.0))
    }
}

/// Why there is no next request number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReqNoError {
    /// The connection has used up its numbers.
    #[error(
        "no request number of the {role} is left above {highest_seen}: the connection cannot move any more"
    )]
    Exhausted {
        /// Whose number was asked for.
        role: Role,
        /// The highest number seen on the connection.
        highest_seen: ReqNo,
    },
}

impl fmt::Display for ReqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for ReqNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReqNo({self})")
    }
}
