//! The symmetric proxy: relays connections whose two ends cannot reach each other.
//!
//! The life of a relayed connection, in the order of the rooms:
//!
//! 1. `server` attends the mobility servers. One of them hands over a ticket; `leases` checks it and gives it a port of
//!    `ports`, whose door `act` opens in the data path.
//! 2. Each end knocks at the port. The data path lets a knock through whose MAC fits; the rules (`migration::proxy`)
//!    splice the two and answer each from what the other has said; `act` does it.
//! 3. From then on the data path relays. `leases` looks after it now and then: FINs both ways, silence or the server's
//!    word free the port.
//! 4. `drive` is the only loop. When the daemon dies, relays go on; the next one finds them in the data path's maps.

pub mod act;
pub mod cleanup;
pub mod cli;
pub mod config;
pub mod control;
pub mod doctor;
pub mod drive;
pub mod hold;
pub mod leases;
pub mod metrics;
pub mod ports;
pub mod server;
pub mod watch;
