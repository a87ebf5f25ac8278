//! The program as a whole, each time in a place of its own: what keeps it from starting is said, what strangers do
//! to its port is counted, and it lives on.

mod home;
#[path = "../../../crates/datapath/tests/kernel/place.rs"]
#[allow(dead_code)]
mod place;
mod starting;
mod strangers;
