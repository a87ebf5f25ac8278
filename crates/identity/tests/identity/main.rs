//! The pair exchange, its certificates, keys and stores: one program, so that it is linked once.

mod channel;
mod common;
mod epochs;
mod exchange;
mod hostile_members;
mod hostile_strangers;
mod init;
mod joining;
mod messages;
mod store;
mod tickets;
