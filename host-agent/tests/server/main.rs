//! The agent's side of the mobility servers, over real TLS and gRPC against a server in this process.

mod attending;
mod enrolling;
mod hub;
mod standing;
mod tunnelling;
