//! The symmetric proxy's rules for one relayed connection: whom it answers, what it says, and when a port is free
//! again. Pure, as everything here: a segment, a passing third segment or a glance at the data path comes in, what to
//! do comes out.
//!
//! The life of a lease:
//! 1. The server's ticket opens a port for two agents, the **legs**; the [`Splice`] waits for an MSYN on each.
//! 2. Both are there: both directions are installed, and each leg is answered from the other's MSYN, as if the other
//!    end had written the answer. From now on the data path passes segments, the ends' third segments first.
//! 3. An end that moves knocks again from elsewhere. It is answered from what it says it expects next; the other end's
//!    segments follow it there when its third segment has passed, which shows that it hears the relay.
//! 4. FINs both ways, silence or the server's word end it: [`fate`].
//!
//! A leg gets at most one answer for each of its MSYNs, of the same size. Nothing here reads a third segment: what
//! makes an end commit is the pair's own MAC, which the proxy cannot write.

mod fate;
mod splice;

pub use fate::{Activity, End, Fate, Patience, fate};
pub use splice::{Action, Answer, Event, Knock, Leg, Refusal, Splice};
