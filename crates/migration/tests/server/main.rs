//! The mobility server's rules: the source's text row by row, the life of a match, and every topology and interleaving.

mod bench;
mod interleavings;
mod life;
mod rows_after;
mod rows_before;
mod rows_ports;
mod rows_refused;
mod rows_relayed;
mod rows_sender;
