//! The agent against the data path in memory: two hosts, one wire, no privileges. In the order of a connection's
//! life: keys and moves, what the wire does to the handshake, what strangers try, resets, the end, what another
//! agent finds, and what happens when something is used up.

mod adoption;
mod clocks;
mod contested;
mod endings;
mod families;
mod forgeries;
mod handshake;
mod keys;
mod lies;
mod limits;
mod moves;
mod relayed;
mod resets;
mod revoked;
mod servers;
mod talking;
mod windows;
mod world;
